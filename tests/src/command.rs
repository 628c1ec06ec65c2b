//! Other programs, run to their end.

use std::process::Command;

use anyhow::{Context, ensure};

/// Runs a command to its end; gives what it printed. Its error output is the error.
pub fn stdout_of(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| {
        format!("cannot run `{}`; is its package installed?", command.get_program().display())
    })?;
    ensure!(
        output.status.success(),
        "`{}` failed ({}): {}",
        shown(command),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command as one would type it, scripts in it shortened.
fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let short = |word: &std::ffi::OsStr| {
        let text = word.to_string_lossy();
        match text.trim().split_once('\n') {
            Some((line, _)) => format!("{line}…"),
            None => text.into_owned(),
        }
    };
    words.map(short).collect::<Vec<_>>().join(" ")
}

/// Whether a program is on the path.
pub fn is_installed(program: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

//! Test desktops for a person. `cargo xtask desktop` runs it.

use std::process::ExitCode;

use anyhow::{Context, bail};
use phantom_tests::desktops::{Lan, Release, visit};

fn main() -> anyhow::Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["list"] => {
            list();
            Ok(ExitCode::SUCCESS)
        }
        ["shell", name] => {
            let code = shell(name)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        _ => bail!("say `list`, or `shell NAME` with a name of the list"),
    }
}

fn list() {
    println!("fresh, each time:");
    for release in Release::ALL {
        println!("  {}", release.name());
    }
    let kept = visit::all_kept();
    if !kept.is_empty() {
        println!("kept by a failed scenario:");
        kept.iter().for_each(|name| println!("  {name}"));
    }
}

/// A root shell on a kept desktop or a fresh one.
fn shell(name: &str) -> anyhow::Result<i32> {
    if let Some(socket) = visit::kept(name) {
        return visit::shell_at(&socket);
    }
    let release = Release::ALL.into_iter().find(|release| release.name() == name);
    let release = release.with_context(|| {
        format!("no desktop `{name}`: `cargo xtask desktop list` tells which there are")
    })?;
    let lan = Lan::new()?;
    let desktop = lan.desktop(name).release(release).person("ada", 1000).start()?;
    println!("A fresh {name}; ada lives there. `exit` throws it away.");
    visit::shell_on(&desktop)
}

//! SHA-256 by coreutils' `sha256sum`, which every Debian has: no crypto crate to wait for.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::command::Cmd;

/// The digest of a file, in lower-case hex.
pub fn of_file(path: &Path) -> Result<String> {
    let printed = Cmd::new("sha256sum").arg("--").arg(path).stdout()?;
    first_word(&printed)
}

/// The digest of these bytes, in lower-case hex.
pub fn of_bytes(bytes: &[u8]) -> Result<String> {
    let mut child = Command::new("sha256sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting sha256sum")?;
    if let Some(mut input) = child.stdin.take() {
        input.write_all(bytes).context("writing to sha256sum")?;
    }
    let output = child.wait_with_output().context("reading from sha256sum")?;
    first_word(&String::from_utf8_lossy(&output.stdout))
}

fn first_word(printed: &str) -> Result<String> {
    // An escaped file name is announced by a backslash before the digest.
    let word = printed.trim_start_matches('\\').split_whitespace().next();
    word.filter(|word| word.len() == 64).map(str::to_owned).context("sha256sum printed no digest")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digest() {
        assert_eq!(
            of_bytes(b"abc").unwrap(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert!(of_file(Path::new("/no/such/file")).is_err());
    }
}

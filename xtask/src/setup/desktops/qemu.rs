//! QEMU, which runs the desktops.

use std::path::Path;

use anyhow::{Result, bail};

use crate::command::Cmd;
use crate::root;
use crate::setup::version;

/// The package it comes in.
pub const PACKAGE: &str = "qemu-system-x86";
/// What runs a PC.
const PROGRAM: &str = "qemu-system-x86_64";
/// Debian 12's. Older ones were not tried.
const MINIMUM: &str = "7.2";

/// The version that is there, `None` when there is none; fails when it is too old, because the
/// package does not help where another QEMU is found first.
pub fn version() -> Result<Option<String>> {
    let Some(path) = root::which(PROGRAM).next() else { return Ok(None) };
    let printed = Cmd::new(&path).arg("--version").stdout()?;
    accept(&path, &printed).map(Some)
}

fn accept(path: &Path, printed: &str) -> Result<String> {
    let found = parse_version(printed).unwrap_or_else(|| "of no known version".to_owned());
    if !version::at_least(&found, MINIMUM) {
        bail!(
            "the desktops need QEMU {MINIMUM} or newer, {} is {found}: take it out of PATH and \
             run this again (the package {PACKAGE} has a newer one), or leave the desktops out \
             with `cargo xtask test --tier fast`",
            path.display()
        );
    }
    Ok(found)
}

/// From `QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)`.
fn parse_version(printed: &str) -> Option<String> {
    let (_, rest) = printed.lines().next()?.split_once(" version ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

/// What is missing, in words.
pub fn missing() -> String {
    format!("QEMU {MINIMUM} or newer: no {PROGRAM} in PATH")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_ones_are_refused_with_the_remedy() {
        let path = Path::new("/usr/local/bin/qemu-system-x86_64");
        let debian = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)\nCopyright";
        assert_eq!(accept(path, debian).unwrap(), "7.2.22");
        assert_eq!(accept(path, "QEMU emulator version 10.0.2\n").unwrap(), "10.0.2");
        let old = accept(path, "QEMU emulator version 5.2.0\n").unwrap_err().to_string();
        assert!(old.contains("7.2") && old.contains("5.2.0") && old.contains("PATH"), "{old}");
        assert!(accept(path, "something else").is_err());
    }
}

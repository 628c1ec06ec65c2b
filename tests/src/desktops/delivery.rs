//! What is delivered to a desktop without touching its image: a small read-only disk with the
//! programs under test.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};

use super::host::Host;

/// Its size; a golden desktop has been told it, so it is the same for all.
const SIZE_MIB: u64 = 256;

/// Writes a delivery of `phantom` and CRIU.
pub fn write(host: &Host, file: &Path) -> anyhow::Result<()> {
    let content = tempfile::tempdir_in("/var/tmp").context("a folder in /var/tmp")?;
    let copy = |from: &Path, name: &str| {
        std::fs::copy(from, content.path().join(name))
            .with_context(|| format!("copying {}", from.display()))
    };
    copy(&host.phantom, "phantom")?;
    copy(&host.criu.join("criu"), "criu")?;
    write_empty(file)?;
    let output = Command::new("mkfs.ext4")
        .args(["-q", "-F", "-O", "^has_journal", "-m", "0", "-d"])
        .args([content.path(), file])
        .output()
        .context("cannot run mkfs.ext4: install e2fsprogs")?;
    if !output.status.success() {
        bail!("mkfs.ext4: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Writes one with nothing in it.
pub fn write_empty(file: &Path) -> anyhow::Result<()> {
    std::fs::File::create(file)
        .and_then(|made| made.set_len(SIZE_MIB << 20))
        .with_context(|| format!("creating {}", file.display()))
}

//! What the restored app will touch first, brought into this kernel's memory while the app still
//! runs at its source: names, attributes and contents of the files it has mapped or open. Without
//! it each of them would be asked for while the app stands still.
//!
//! A process of its own reads them. The shim answers the kernel for these files: a thread of it that
//! waits for an answer cannot be killed, and keeps the mount that it waits for alive for ever.

use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use phantom_model::app::OsText;

/// No more than this is read: memory is for programs.
const MAX_BYTES: u64 = 512 << 20;
/// Larger files are only opened; of a large file little is touched.
const MAX_FILE_BYTES: u64 = 64 << 20;

/// Has the files at `paths` below the mount at `root` read, and waits for it; it ends when the mount
/// does. Gives how many bytes were read.
pub fn read_ahead(root: &Path, paths: &[OsText]) -> anyhow::Result<u64> {
    let mut child = Command::new("/proc/self/exe")
        .arg("read-ahead")
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start what reads ahead")?;
    let mut names = Vec::new();
    for path in paths {
        names.extend_from_slice(&path.0);
        names.push(0);
    }
    let told = child.stdin.take().context("it has no input")?.write_all(&names);
    let output = child.wait_with_output().context("cannot wait for what reads ahead")?;
    told.context("cannot tell what to read ahead")?;
    ensure!(output.status.success(), "reading ahead ended with {}", output.status);
    let bytes = str::from_utf8(&output.stdout)?.trim();
    bytes.parse().context("cannot tell what was read ahead")
}

/// `phantom read-ahead`: what runs in that process.
pub fn main(root: &Path) -> anyhow::Result<()> {
    let mut names = Vec::new();
    io::stdin().read_to_end(&mut names).context("cannot read the names of the files")?;
    let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let paths: Vec<OsText> = names.map(|name| OsText(name.to_vec())).collect();
    writeln!(io::stdout(), "{}", read_through(root, &paths))?;
    Ok(())
}

/// Reads the files at `paths` below the mount at `root`. What cannot be read is left for later.
/// Gives how many bytes were read.
fn read_through(root: &Path, paths: &[OsText]) -> u64 {
    let mut total = 0;
    for path in paths {
        if total >= MAX_BYTES {
            break;
        }
        match read_one(&below(root, path)) {
            Ok(bytes) => total += bytes,
            Err(error) => tracing::debug!(%path, %error, "not read ahead"),
        }
    }
    total
}

fn read_one(path: &Path) -> io::Result<u64> {
    // What was a plain file may be anything by now.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW | libc::O_NOCTTY;
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    let kind = file.metadata()?;
    if !kind.is_file() || kind.len() > MAX_FILE_BYTES {
        return Ok(0);
    }
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(total),
            count => total += count as u64,
        }
    }
}

/// The place of an inside path below `root`.
fn below(root: &Path, inside: &OsText) -> PathBuf {
    let inside = inside.to_path();
    root.join(inside.strip_prefix("/").unwrap_or(&inside))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_files_are_read_and_others_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), b"12345").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("link")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let paths = ["/file", "/link", "/pipe", "/nothing"].map(OsText::from);
        assert_eq!(read_through(dir.path(), &paths), 5);
    }
}

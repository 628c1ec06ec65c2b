//! What a service prints: kept within bounds, the newest last.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// How large the log becomes; what it held before is then in `LOG.1`.
const MOST: u64 = 1 << 20;

/// Writes all that comes from `output` to `log`, in a thread that ends when nobody can print any
/// more. What cannot be written is lost; the service is never held up for longer than a disk is.
pub fn keep(output: File, log: PathBuf) -> io::Result<()> {
    let written = Bounded::open(&log, MOST)?;
    std::thread::Builder::new().name("log".into()).spawn(move || copy(output, written)).map(drop)
}

fn copy(mut output: File, mut log: Bounded) {
    let mut bytes = [0; 16 << 10];
    let mut complained = false;
    loop {
        match output.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                if let Err(error) = log.write(&bytes[..count])
                    && !std::mem::replace(&mut complained, true)
                {
                    tracing::warn!(%error, "what the service prints cannot be kept");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

struct Bounded {
    path: PathBuf,
    most: u64,
    file: File,
    len: u64,
}

impl Bounded {
    fn open(path: &Path, most: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(path)?;
        let len = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), most, file, len })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.len > 0 && self.len + bytes.len() as u64 > self.most {
            let mut before = self.path.clone().into_os_string();
            before.push(".1");
            std::fs::rename(&self.path, before)?;
            *self = Self::open(&self.path, self.most)?;
        }
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_prints_without_end_fills_two_files_and_no_more() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keeper.log");
        let mut log = Bounded::open(&path, 100).unwrap();
        for number in 0..49 {
            log.write(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        // Another daemon goes on in the same file.
        let mut log = Bounded::open(&path, 100).unwrap();
        log.write(b"the last\n").unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.len() <= 100 && text.ends_with("line 0048\nthe last\n"), "{text}");
        let before = std::fs::metadata(dir.path().join("keeper.log.1")).unwrap().len();
        assert_eq!(before, 100);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }
}

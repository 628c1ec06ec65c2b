//! What is done with files, timed.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::time::Instant;

use anyhow::ensure;

use super::place::Place;

/// Bytes of the large file.
const LARGE: usize = 64 << 20;
/// Small files, and the bytes of each.
const SMALL: (usize, usize) = (1000, 1024);

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// A large file from front to back, not read here before.
    Read,
    /// A large file, then fsync.
    Write,
    /// Small files: create and write.
    Create,
    /// Small files: attributes, by listing them.
    List,
    /// Small files: open and read.
    ReadSmall,
    /// Small files: remove.
    Remove,
}

impl Work {
    /// All of them.
    pub const ALL: [Work; 6] =
        [Work::Read, Work::Write, Work::Create, Work::List, Work::ReadSmall, Work::Remove];

    /// What its row calls it.
    pub fn metric(self) -> &'static str {
        match self {
            Work::Read => "read 64 MiB",
            Work::Write => "write 64 MiB, fsync",
            Work::Create => "create 1,000 files of 1 KiB",
            Work::List => "list 1,000 files with attributes",
            Work::ReadSmall => "open and read 1,000 files",
            Work::Remove => "remove 1,000 files",
        }
    }

    /// The unit of its measure.
    pub fn unit(self) -> &'static str {
        match self {
            Work::Read | Work::Write => "MiB/s",
            _ => "ms",
        }
    }

    /// Does it once in `place` and measures it. Nothing of it is left.
    pub fn measure(self, place: &dyn Place) -> anyhow::Result<f64> {
        let home = tempfile::Builder::new().prefix("work-").tempdir_in(place.home())?;
        let name = home.path().file_name().unwrap_or_default();
        let away = place.path().join(name);
        let file = |i: usize| format!("file-{i:04}");
        let small = vec![b'x'; SMALL.1];
        if matches!(self, Work::List | Work::ReadSmall | Work::Remove) {
            for i in 0..SMALL.0 {
                fs::write(home.path().join(file(i)), &small)?;
            }
        }
        if self == Work::Read {
            fs::write(home.path().join("large"), vec![b'x'; LARGE])?;
        }
        let begun = Instant::now();
        match self {
            Work::Read => {
                let mut buffer = vec![0; 1 << 20];
                let (mut from, mut total) = (File::open(away.join("large"))?, 0);
                while let n @ 1.. = from.read(&mut buffer)? {
                    total += n;
                }
                ensure!(total == LARGE, "only {total} bytes were read");
            }
            Work::Write => {
                let buffer = vec![b'x'; 1 << 20];
                let mut to = File::create(away.join("large"))?;
                for _ in 0..LARGE / buffer.len() {
                    to.write_all(&buffer)?;
                }
                to.sync_all()?;
            }
            Work::Create => {
                for i in 0..SMALL.0 {
                    fs::write(away.join(file(i)), &small)?;
                }
            }
            Work::List => {
                let mut bytes = 0;
                for entry in fs::read_dir(&away)? {
                    bytes += entry?.metadata()?.len();
                }
                ensure!(bytes as usize == SMALL.0 * SMALL.1, "{bytes} bytes were listed");
            }
            Work::ReadSmall => {
                for i in 0..SMALL.0 {
                    ensure!(fs::read(away.join(file(i)))?.len() == SMALL.1, "a file is short");
                }
            }
            Work::Remove => {
                for i in 0..SMALL.0 {
                    fs::remove_file(away.join(file(i)))?;
                }
            }
        }
        let took = begun.elapsed().as_secs_f64();
        Ok(match self {
            Work::Read | Work::Write => (LARGE >> 20) as f64 / took,
            _ => took * 1e3,
        })
    }
}

//! What a running capsule has that a move cannot take along, and which files it uses.
//!
//! All from `/proc`, without stopping anything, so it tells what is there now; CRIU has the last
//! word. What it cannot see: who holds the other end of a Unix socket that was connected by path.

mod files;
mod sockets;

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Error;
use crate::plan::TerminalKey;

/// Most processes that are looked at.
const MAX_PROCESSES: usize = 20_000;
/// Namespaces that every process of a capsule shares.
const NAMESPACES: [&str; 6] = ["user", "mnt", "pid", "net", "ipc", "uts"];

/// Something that prevents a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// The process, as this machine numbers it.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// The open file, if it is one.
    pub fd: Option<u32>,
    /// What it is.
    pub kind: ObstacleKind,
}

/// What prevents a move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObstacleKind {
    /// A connection that leaves the capsule.
    Connection {
        /// The other end, `address:port`.
        peer: String,
    },
    /// A socket of a kind that is not saved.
    Socket {
        /// Its kind.
        kind: String,
    },
    /// A device.
    Device {
        /// Its path.
        path: PathBuf,
    },
    /// An object of the kernel that is not saved.
    KernelObject {
        /// What the kernel calls it.
        name: String,
    },
    /// An unlinked file that is too large.
    Unlinked {
        /// What its path was.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A debugger.
    Traced {
        /// Its process.
        tracer: u32,
    },
    /// A namespace other than the capsule's.
    Namespace {
        /// Which kind.
        kind: &'static str,
    },
    /// A program for a 32-bit machine.
    Bits32,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (process {}) ", self.process, self.pid)?;
        match &self.kind {
            ObstacleKind::Connection { peer } => write!(f, "is connected to {peer}")?,
            ObstacleKind::Socket { kind } => write!(f, "has a {kind} socket open")?,
            ObstacleKind::Device { path } => {
                write!(f, "has the device {} open", path.display())?;
            }
            ObstacleKind::KernelObject { name } => {
                write!(f, "uses {name}, which cannot be saved")?;
            }
            ObstacleKind::Unlinked { path, bytes } => write!(
                f,
                "uses the unlinked file {} of {bytes} bytes, too large to be taken along",
                path.display()
            )?,
            ObstacleKind::Traced { tracer } => write!(f, "is traced by process {tracer}")?,
            ObstacleKind::Namespace { kind } => {
                write!(f, "has a {kind} namespace of its own")?;
            }
            ObstacleKind::Bits32 => f.write_str("is a 32-bit program")?,
        }
        match self.fd {
            Some(fd) => write!(f, " (descriptor {fd})"),
            None => Ok(()),
        }
    }
}

/// A file the capsule uses: worth sending ahead, and to be kept alive at home during the move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedFile {
    /// Its path inside.
    pub path: PathBuf,
    /// The device it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
    /// Its size.
    pub bytes: u64,
    /// It is mapped into memory: needed before the program can run.
    pub mapped: bool,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// What prevents a move.
    pub obstacles: Vec<Obstacle>,
    /// Regular files in use, each once, mapped ones first.
    pub files: Vec<UsedFile>,
    /// Processes.
    pub processes: usize,
    /// Threads of all processes.
    pub threads: usize,
    /// Memory that an image would hold.
    pub resident_bytes: u64,
}

/// What is not an obstacle in this capsule.
#[derive(Debug, Clone, Copy)]
pub struct InspectOptions {
    /// The app's terminal.
    pub terminal: Option<TerminalKey>,
    /// As in the dump plan.
    pub ghost_limit_bytes: u32,
}

/// Looks at the tree below `root_pid`. Processes that end meanwhile are left out.
///
/// # Errors
/// Only when the root itself cannot be looked at.
pub fn inspect(root_pid: u32, options: &InspectOptions) -> Result<Inspection, Error> {
    let root = PathBuf::from(format!("/proc/{root_pid}"));
    let namespaces = namespaces(&root).map_err(Error::io("look at", &root))?;
    let mut found = Inspection::default();
    let mut files = BTreeMap::new();
    let sockets = sockets::Sockets::read(&root);
    let mut left = vec![root_pid];
    while let Some(pid) = left.pop() {
        if found.processes >= MAX_PROCESSES {
            break;
        }
        let process = PathBuf::from(format!("/proc/{pid}"));
        left.extend(children(&process));
        let Ok(status) = fs::read_to_string(process.join("status")) else { continue };
        found.processes += 1;
        found.threads += number(&status, "Threads:").unwrap_or(1) as usize;
        let kib = ["RssAnon:", "RssShmem:"].map(|key| number(&status, key).unwrap_or(0));
        found.resident_bytes += (kib[0] + kib[1]) * 1024;
        let name = text(&status, "Name:").unwrap_or_default().to_owned();
        let mut obstacle = |fd, kind| {
            found.obstacles.push(Obstacle { pid, process: name.clone(), fd, kind });
        };
        if let Some(tracer) = number(&status, "TracerPid:").filter(|&tracer| tracer != 0) {
            obstacle(None, ObstacleKind::Traced { tracer: tracer as u32 });
        }
        if let Ok(own) = self::namespaces(&process) {
            for (kind, _) in NAMESPACES
                .iter()
                .zip(own.iter().zip(&namespaces))
                .filter(|(_, (own, root))| own != root)
            {
                obstacle(None, ObstacleKind::Namespace { kind });
            }
        }
        if files::is_32_bit(&process) {
            obstacle(None, ObstacleKind::Bits32);
        }
        files::descriptors(&process, options, &sockets, &mut obstacle, &mut files);
        files::mappings(&process, &mut obstacle, &mut files);
    }
    found.files = files.into_values().collect();
    found.files.sort_by_key(|file| !file.mapped);
    Ok(found)
}

fn children(process: &Path) -> Vec<u32> {
    let threads = fs::read_dir(process.join("task")).into_iter().flatten().flatten();
    threads
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

/// The identities of a process's namespaces, in the order of [`NAMESPACES`].
fn namespaces(process: &Path) -> io::Result<Vec<(u64, u64)>> {
    NAMESPACES
        .iter()
        .map(|kind| {
            let metadata = fs::metadata(process.join("ns").join(kind))?;
            Ok((metadata.dev(), metadata.ino()))
        })
        .collect()
}

fn text<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim)
}

fn number(status: &str, key: &str) -> Option<u64> {
    text(status, key)?.split_whitespace().next()?.parse().ok()
}

/// `/path (deleted)` as the path, and whether it said so.
fn without_deleted(path: PathBuf) -> (PathBuf, bool) {
    let mut bytes = path.into_os_string().into_vec();
    let deleted = bytes.ends_with(b" (deleted)");
    if deleted {
        bytes.truncate(bytes.len() - b" (deleted)".len());
    }
    (PathBuf::from(std::ffi::OsString::from_vec(bytes)), deleted)
}

//! Open files and mappings.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use super::sockets::Sockets;
use super::{InspectOptions, ObstacleKind, UsedFile, without_deleted};

/// Kernel objects behind descriptors that CRIU saves.
const SAVED_OBJECTS: [&str; 7] = [
    "anon_inode:[eventfd]",
    "anon_inode:[eventpoll]",
    "anon_inode:[timerfd]",
    "anon_inode:[signalfd]",
    "anon_inode:[pidfd]",
    "anon_inode:inotify",
    "inotify",
];
/// Memory devices, `/dev/tty` and `/dev/ptmx`: on every machine the same.
const SAME_EVERYWHERE: [(u64, u64); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];
/// Slaves of pseudo terminals.
const PTS_MAJORS: std::ops::RangeInclusive<u64> = 136..=143;

/// Regular files in use, by device and inode.
pub(super) type Files = BTreeMap<(u64, u64), UsedFile>;

/// Whether the process runs a 32-bit program: the fifth byte of an ELF file.
pub(super) fn is_32_bit(process: &Path) -> bool {
    let mut head = [0; 5];
    let read = File::open(process.join("exe")).and_then(|mut file| file.read_exact(&mut head));
    read.is_ok() && head == [0x7f, b'E', b'L', b'F', 1]
}

/// Looks at every descriptor.
pub(super) fn descriptors(
    process: &Path,
    options: &InspectOptions,
    sockets: &Sockets,
    obstacle: &mut impl FnMut(Option<u32>, ObstacleKind),
    files: &mut Files,
) {
    for entry in fs::read_dir(process.join("fd")).into_iter().flatten().flatten() {
        let Some(fd) = entry.file_name().to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        // Both fail when it was closed meanwhile.
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let Ok(metadata) = fs::metadata(entry.path()) else { continue };
        let kind = metadata.file_type();
        let name = link.to_string_lossy().into_owned();
        if kind.is_socket() {
            if let Some(kind) = sockets.obstacle(metadata.ino()) {
                obstacle(Some(fd), kind);
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            if kind.is_block_device() || !is_common(&metadata, options) {
                obstacle(Some(fd), ObstacleKind::Device { path: link });
            }
        } else if kind.is_file() && name.starts_with('/') {
            let (path, deleted) = without_deleted(link);
            if metadata.nlink() == 0 {
                let bytes = metadata.size();
                // Memory files look unlinked but are saved whole as memory.
                if bytes > options.ghost_limit_bytes.into() && !name.starts_with("/memfd:") {
                    obstacle(Some(fd), ObstacleKind::Unlinked { path, bytes });
                }
            } else if !deleted {
                add(files, path, (metadata.dev(), metadata.ino()), metadata.size(), false);
            }
        } else if is_anonymous(&name) && !is_saved(&name) {
            obstacle(Some(fd), ObstacleKind::KernelObject { name: words(&name) });
        }
    }
}

fn is_common(metadata: &fs::Metadata, options: &InspectOptions) -> bool {
    let rdev = metadata.rdev();
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let own = options.terminal.is_some_and(|key| (key.rdev, key.dev) == (rdev, metadata.dev()));
    // A slave on another file system than the app's terminal is one of the capsule's own.
    let private =
        PTS_MAJORS.contains(&major) && options.terminal.is_none_or(|key| key.dev != metadata.dev());
    own || private || SAME_EVERYWHERE.contains(&(major, minor))
}

fn is_anonymous(name: &str) -> bool {
    name.starts_with("anon_inode:") || name.starts_with("inotify") || name.contains(":[")
}

fn is_saved(name: &str) -> bool {
    SAVED_OBJECTS.contains(&name)
        || name.starts_with("pipe:[")
        || name.starts_with("socket:[")
        || name.starts_with("pidfd:[")
}

/// `anon_inode:[io_uring]` as people know it.
fn words(name: &str) -> String {
    let name = name.strip_prefix("anon_inode:").unwrap_or(name);
    name.trim_matches(['[', ']']).to_owned()
}

fn add(files: &mut Files, path: PathBuf, key: (u64, u64), bytes: u64, mapped: bool) {
    let (dev, ino) = key;
    let file = UsedFile { path, dev, ino, bytes, mapped };
    files.entry(key).or_insert(file).mapped |= mapped;
}

/// Looks at every mapping.
pub(super) fn mappings(
    process: &Path,
    obstacle: &mut impl FnMut(Option<u32>, ObstacleKind),
    files: &mut Files,
) {
    let Ok(text) = fs::read(process.join("maps")) else { return };
    let mut seen = std::collections::BTreeSet::new();
    for line in text.split(|&byte| byte == b'\n') {
        let Some(mapping) = Mapping::parse(line) else { continue };
        if !seen.insert((mapping.dev, mapping.ino, mapping.path)) {
            continue;
        }
        let name = String::from_utf8_lossy(mapping.path);
        if name.starts_with("anon_inode:") {
            obstacle(None, ObstacleKind::KernelObject { name: words(&name) });
            continue;
        }
        // The path may have changed; the link of the mapping itself leads to the inode.
        let Ok(metadata) = fs::metadata(process.join("map_files").join(mapping.range)) else {
            continue;
        };
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(mapping.path));
        if metadata.is_file() && metadata.nlink() > 0 {
            let (path, _) = without_deleted(path);
            add(files, path, (metadata.dev(), metadata.ino()), metadata.size(), true);
        } else if metadata.file_type().is_char_device() && path != Path::new("/dev/zero") {
            obstacle(None, ObstacleKind::Device { path });
        }
    }
}

/// One line of `maps` that names a file.
struct Mapping<'a> {
    range: &'a str,
    dev: &'a [u8],
    ino: &'a [u8],
    path: &'a [u8],
}

impl<'a> Mapping<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut rest = line;
        let mut field = || {
            let end = rest.iter().position(|&byte| byte == b' ')?;
            let (field, after) = rest.split_at(end);
            rest = after.trim_ascii_start();
            Some(field)
        };
        let range = std::str::from_utf8(field()?).ok()?;
        let (_mode, _offset, dev, ino) = (field()?, field()?, field()?, field()?);
        let named = rest.starts_with(b"/") || rest.starts_with(b"anon_inode:");
        (named && ino != b"0").then_some(Self { range, dev, ino, path: rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mappings_of_files_are_parsed() {
        let line = b"7f00-7f10 r-xp 00000000 fd:01 1234                       /usr/lib/a b.so";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!(mapping.range, "7f00-7f10");
        assert_eq!(mapping.path, b"/usr/lib/a b.so");
        for line in [
            b"7f00-7f10 rw-p 00000000 00:00 0 ".as_slice(),
            b"7f00-7f10 rw-p 00000000 00:00 0    [heap]",
            b"7f00",
            b"",
        ] {
            assert!(Mapping::parse(line).is_none());
        }
    }

    #[test]
    fn objects_are_told_apart() {
        for name in ["anon_inode:[eventfd]", "pipe:[77]", "anon_inode:inotify"] {
            assert!(is_anonymous(name) && is_saved(name), "{name}");
        }
        for name in ["anon_inode:[io_uring]", "anon_inode:[userfaultfd]", "net:[4026531840]"] {
            assert!(is_anonymous(name) && !is_saved(name), "{name}");
        }
        assert_eq!(words("anon_inode:[io_uring]"), "io_uring");
    }
}

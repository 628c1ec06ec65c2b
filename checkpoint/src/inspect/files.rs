//! Open files and mappings.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, StatxFlags, makedev, statx};

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

/// Whether the process runs a 32-bit program: the words of its auxiliary vector have half the length,
/// so that values stand where a 64-bit program has the upper halves of small keys.
///
/// Not told from the program's file: whoever serves the app's files through FUSE would ask itself,
/// and could not even be killed while it waits for its own answer.
pub(super) fn is_32_bit(process: &Path) -> bool {
    fs::read(process.join("auxv")).is_ok_and(|words| has_short_words(&words))
}

fn has_short_words(auxiliary: &[u8]) -> bool {
    let (entries, _) = auxiliary.as_chunks::<16>();
    entries.iter().any(|entry| entry[4..8] != [0; 4])
}

/// What the kernel knows of a file, without asking who serves its file system (statx(2)).
struct Known {
    kind: FileType,
    links: u32,
    bytes: u64,
    dev: u64,
    ino: u64,
    rdev: u64,
}

impl Known {
    fn of(path: &Path) -> rustix::io::Result<Self> {
        let stat = statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS)?;
        Ok(Self {
            kind: FileType::from_raw_mode(stat.stx_mode.into()),
            links: stat.stx_nlink,
            bytes: stat.stx_size,
            dev: makedev(stat.stx_dev_major, stat.stx_dev_minor),
            ino: stat.stx_ino,
            rdev: makedev(stat.stx_rdev_major, stat.stx_rdev_minor),
        })
    }
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
        let Ok(file) = Known::of(&entry.path()) else { continue };
        let kind = file.kind;
        let name = link.to_string_lossy().into_owned();
        if kind.is_socket() {
            if let Some(kind) = sockets.obstacle(file.ino) {
                obstacle(Some(fd), kind);
            }
        } else if kind.is_char_device() || kind.is_block_device() {
            if kind.is_block_device() || !is_common(&file, options) {
                obstacle(Some(fd), ObstacleKind::Device { path: link });
            }
        } else if kind.is_file() && name.starts_with('/') {
            let (path, deleted) = without_deleted(link);
            if file.links == 0 {
                let bytes = file.bytes;
                // Memory files look unlinked but are saved whole as memory.
                if bytes > options.ghost_limit_bytes.into() && !name.starts_with("/memfd:") {
                    obstacle(Some(fd), ObstacleKind::Unlinked { path, bytes });
                }
            } else if !deleted {
                add(files, path, &file, false);
            }
        } else if is_anonymous(&name) && !is_saved(&name) {
            obstacle(Some(fd), ObstacleKind::KernelObject { name: words(&name) });
        }
    }
}

fn is_common(file: &Known, options: &InspectOptions) -> bool {
    let Known { dev, rdev, .. } = *file;
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    let own = options.terminal.is_some_and(|key| (key.rdev, key.dev) == (rdev, dev));
    // A slave on another file system than the app's terminal is one of the capsule's own.
    let private = PTS_MAJORS.contains(&major) && options.terminal.is_none_or(|key| key.dev != dev);
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

fn add(files: &mut Files, path: PathBuf, known: &Known, mapped: bool) {
    let Known { dev, ino, bytes, .. } = *known;
    let file = UsedFile { path, dev, ino, bytes, mapped };
    files.entry((dev, ino)).or_insert(file).mapped |= mapped;
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
        let link = process.join("map_files").join(mapping.range);
        let Ok(file) = Known::of(&link) else { continue };
        let path = PathBuf::from(std::ffi::OsStr::from_bytes(mapping.path));
        if file.kind.is_file() && file.links > 0 {
            let (path, _) = without_deleted(path);
            add(files, path, &file, true);
        } else if file.kind.is_char_device() && path != Path::new("/dev/zero") {
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
    fn programs_of_32_bits_are_told_by_the_length_of_their_words() {
        let words_64 = [33u64, 0x7f32_c096_a000, 51, 0xd30, 0, 0];
        let long: Vec<u8> = words_64.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let words_32 = [32u32, 0xf7f0_8550, 33, 0xf7f0_8000, 51, 0xd30, 0, 0];
        let short: Vec<u8> = words_32.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert!(has_short_words(&short) && !has_short_words(&long));
        assert!(!has_short_words(b""));
        assert!(!is_32_bit(Path::new("/proc/self")));
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

//! The names files of an image may have. Everything else is refused: CRIU opens files by names it
//! makes from numbers in other files, and reads more kinds than a capsule of Phantom's ever has.

use super::ImageError;

/// How the number in a name is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// There is none.
    None,
    /// Decimal.
    Decimal,
    /// Hexadecimal, lower case.
    Hexadecimal,
}

/// What kind of file an image file is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the names are CRIU's own and described in its documentation")]
pub enum FileKind {
    Inventory,
    Pstree,
    Seccomp,
    Files,
    FdInfo,
    Ids,
    Core,
    Mm,
    Fs,
    Pagemap,
    Pages,
    ShmemPagemap,
    TtyInfo,
    TtyData,
    UtsNs,
    IpcVar,
    IpcShm,
    IpcMsg,
    IpcSem,
    UserNs,
    Mountpoints,
    NetNs,
    TimeNs,
    PidNs,
    Tmpfs,
    RemapPaths,
    GhostFile,
    FileLocks,
    PipesData,
    FifoData,
    SocketQueues,
    TcpStream,
    MemfdInodes,
}

use FileKind as K;
use Number as N;

/// Prefix, how its number is written, suffix.
const PATTERNS: [(&str, Number, &str, FileKind); 33] = [
    ("inventory", N::None, ".img", K::Inventory),
    ("pstree", N::None, ".img", K::Pstree),
    ("seccomp", N::None, ".img", K::Seccomp),
    ("files", N::None, ".img", K::Files),
    ("fdinfo-", N::Decimal, ".img", K::FdInfo),
    ("ids-", N::Decimal, ".img", K::Ids),
    ("core-", N::Decimal, ".img", K::Core),
    ("mm-", N::Decimal, ".img", K::Mm),
    ("fs-", N::Decimal, ".img", K::Fs),
    ("pagemap-shmem-", N::Decimal, ".img", K::ShmemPagemap),
    ("pagemap-", N::Decimal, ".img", K::Pagemap),
    ("pages-", N::Decimal, ".img", K::Pages),
    ("tty-info", N::None, ".img", K::TtyInfo),
    ("tty-data", N::None, ".img", K::TtyData),
    ("utsns-", N::Decimal, ".img", K::UtsNs),
    ("ipcns-var-", N::Decimal, ".img", K::IpcVar),
    ("ipcns-shm-", N::Decimal, ".img", K::IpcShm),
    ("ipcns-msg-", N::Decimal, ".img", K::IpcMsg),
    ("ipcns-sem-", N::Decimal, ".img", K::IpcSem),
    ("userns-", N::Decimal, ".img", K::UserNs),
    ("mountpoints-", N::Decimal, ".img", K::Mountpoints),
    ("netns-", N::Decimal, ".img", K::NetNs),
    ("timens-", N::Decimal, ".img", K::TimeNs),
    ("pidns-", N::Decimal, ".img", K::PidNs),
    ("tmpfs-dev-", N::Decimal, ".tar.gz.img", K::Tmpfs),
    ("remap-fpath", N::None, ".img", K::RemapPaths),
    ("ghost-file-", N::Hexadecimal, ".img", K::GhostFile),
    ("filelocks", N::None, ".img", K::FileLocks),
    ("pipes-data", N::None, ".img", K::PipesData),
    ("fifo-data", N::None, ".img", K::FifoData),
    ("sk-queues", N::None, ".img", K::SocketQueues),
    ("tcp-stream-", N::Hexadecimal, ".img", K::TcpStream),
    ("memfd", N::None, ".img", K::MemfdInodes),
];

/// An accepted name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileName {
    text: String,
    kind: FileKind,
    number: u32,
}

impl FileName {
    /// The name, if it is one that an image may have: no path, no other spelling of a number.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        PATTERNS
            .iter()
            .find_map(|&(prefix, number, suffix, kind)| {
                let middle = text.strip_prefix(prefix)?.strip_suffix(suffix)?;
                let number = parse_number(middle, number)?;
                Some(Self { text: text.to_owned(), kind, number })
            })
            .ok_or_else(|| ImageError::Name { name: text.chars().take(64).collect() })
    }

    /// As it stands in the directory.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// What it is.
    pub fn kind(&self) -> FileKind {
        self.kind
    }

    /// The number in it; 0 where the kind has none.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether it holds memory pages: long, written front to back while the dump runs.
    pub fn is_pages(&self) -> bool {
        self.kind == FileKind::Pages
    }
}

impl std::fmt::Display for FileName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

fn parse_number(text: &str, style: Number) -> Option<u32> {
    let (radix, written) = match style {
        Number::None => return text.is_empty().then_some(0),
        Number::Decimal => (10, text.parse::<u32>().ok()?.to_string()),
        Number::Hexadecimal => (16, format!("{:x}", u32::from_str_radix(text, 16).ok()?)),
    };
    // Only the one spelling that CRIU itself would look for.
    (written == text).then(|| u32::from_str_radix(text, radix).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_real_images_are_known() {
        for (name, kind, number) in [
            ("inventory.img", FileKind::Inventory, 0),
            ("core-2.img", FileKind::Core, 2),
            ("pagemap-shmem-77.img", FileKind::ShmemPagemap, 77),
            ("tmpfs-dev-41.tar.gz.img", FileKind::Tmpfs, 41),
            ("ghost-file-1f.img", FileKind::GhostFile, 31),
        ] {
            let parsed = FileName::parse(name).unwrap();
            assert_eq!((parsed.kind(), parsed.number()), (kind, number), "{name}");
        }
    }

    #[test]
    fn other_names_are_refused() {
        for name in [
            "",
            "core-.img",
            "core-02.img",
            "core-+2.img",
            "../core-2.img",
            "core-2.img/x",
            "core-99999999999.img",
            "autofs-1.img",
            "tunfile.img",
            "criu.log",
            "ghost-file-1F.img",
            "inventory.img ",
            "binfmt-misc.img",
            "creds-1.img",
            "cgroup.img",
            "core-2.img\0",
        ] {
            assert!(FileName::parse(name).is_err(), "{name:?}");
        }
    }
}

//! Between the kernel's terms, the library's and the client's.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileHandle, FileType, FopenFlags, INodeNo, RenameFlags, TimeOrNow};
use rustix::io::Errno;

use crate::client::Ino;
use crate::proto::{
    FileKind, HandleId, Name, NameError, NodeKind, OpenMode, RenameMode, SeekFor, SetTime,
    Timestamp, XattrMode,
};

// The kernel's numbers for the system calls' flags.
const O_ACCMODE: i32 = 0o3;
const O_WRONLY: i32 = 0o1;
const O_RDWR: i32 = 0o2;
const O_EXCL: i32 = 0o200;
const O_TRUNC: i32 = 0o1000;
pub(super) const O_APPEND: i32 = 0o2000;
const S_IFMT: u32 = 0o170_000;
const SEEK_DATA: i32 = 3;
const SEEK_HOLE: i32 = 4;
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

pub(super) fn errno(error: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(error.raw_os_error())
}

pub(super) fn name_of(name: &OsStr) -> Result<Name, Errno> {
    Name::new(name.as_bytes()).map_err(|error| match error {
        NameError::TooLong(_) => Errno::NAMETOOLONG,
        _ => Errno::INVAL,
    })
}

pub(super) fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

pub(super) fn handle(number: FileHandle) -> HandleId {
    HandleId(number.0)
}

pub(super) fn open_mode(flags: i32) -> OpenMode {
    let access = flags & O_ACCMODE;
    OpenMode {
        read: access != O_WRONLY,
        write: access == O_WRONLY || access == O_RDWR,
        truncate: flags & O_TRUNC != 0,
        exclusive: flags & O_EXCL != 0,
    }
}

pub(super) fn fopen_flags(flags: i32, unchanged: bool) -> FopenFlags {
    // Writes are at home when they return, so there is nothing to flush at a close.
    let mut fopen = FopenFlags::FOPEN_NOFLUSH;
    fopen.set(FopenFlags::FOPEN_KEEP_CACHE, unchanged);
    // Appended data goes where the end is at home, which this kernel's page cache cannot know.
    fopen.set(FopenFlags::FOPEN_DIRECT_IO, flags & O_APPEND != 0 && open_mode(flags).write);
    fopen
}

/// What mknod(2) may make here: no devices.
pub(super) fn node_kind(mode: u32) -> Result<NodeKind, Errno> {
    match mode & S_IFMT {
        0o010_000 => Ok(NodeKind::Fifo),
        0o140_000 => Ok(NodeKind::Socket),
        0o100_000 | 0 => Ok(NodeKind::File),
        _ => Err(Errno::PERM),
    }
}

pub(super) fn rename_mode(flags: RenameFlags) -> Result<RenameMode, Errno> {
    match flags {
        _ if flags.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn xattr_mode(flags: i32) -> Result<XattrMode, Errno> {
    match flags {
        0 => Ok(XattrMode::Any),
        XATTR_CREATE => Ok(XattrMode::Create),
        XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn seek_for(whence: i32) -> Result<SeekFor, Errno> {
    match whence {
        SEEK_DATA => Ok(SeekFor::Data),
        SEEK_HOLE => Ok(SeekFor::Hole),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn system_time(time: Timestamp) -> SystemTime {
    let time = time.clamped();
    let whole = Duration::from_secs(time.sec.unsigned_abs());
    let whole = match time.sec < 0 {
        true => UNIX_EPOCH - whole,
        false => UNIX_EPOCH + whole,
    };
    whole + Duration::from_nanos(time.nsec.into())
}

/// The time the kernel sent. The library (fuser 0.18) takes the seconds and the nanoseconds of a
/// time before 1970 both as going back from there, while the kernel's nanoseconds go forward:
/// this undoes it.
pub(super) fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => Timestamp { sec: since.as_secs() as i64, nsec: since.subsec_nanos() },
        Err(before) => {
            let before = before.duration();
            Timestamp { sec: -(before.as_secs() as i64), nsec: before.subsec_nanos() }
        }
    }
}

pub(super) fn set_time(time: TimeOrNow) -> SetTime {
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => SetTime::At(timestamp(time)),
    }
}

pub(super) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_shown() {
        let at = |sec, nsec| system_time(Timestamp { sec, nsec });
        assert_eq!(at(-1, 250_000_000), UNIX_EPOCH - Duration::from_millis(750));
        assert_eq!(at(5, 7), UNIX_EPOCH + Duration::new(5, 7));
        // Whatever a hostile home sends can be shown.
        for (sec, nsec) in [(i64::MIN, u32::MAX), (i64::MAX, u32::MAX)] {
            at(sec, nsec);
        }
    }
}

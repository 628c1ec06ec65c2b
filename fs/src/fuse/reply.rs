//! What every answer to the kernel has in common, and what is agreed with it at the start.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{InitFlags, KernelConfig, ReplyData, ReplyEmpty, ReplyStatfs, ReplyWrite, ReplyXattr};
use rustix::io::Errno;

use super::convert::{errno, name_of};
use crate::proto::{MAX_IO, Name, Space};

/// Requests the kernel may have under way in the background: read-ahead, mostly.
const BACKGROUND: u16 = 64;

/// What the kernel is asked for, where it has it.
const WANTED: [InitFlags; 9] = [
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // What home changes must not be hidden by this kernel's page cache.
    InitFlags::FUSE_AUTO_INVAL_DATA,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    // Home's kernel drops set-id bits on writes; without this every write asks for a capability
    // attribute first.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Agrees with the kernel on what it may do.
pub(super) fn negotiate(config: &mut KernelConfig) {
    for flag in WANTED {
        if config.add_capabilities(flag).is_err() {
            tracing::debug!(?flag, "this kernel's FUSE lacks something");
        }
    }
    // Both are within the library's bounds; what the kernel allows, it decides.
    let _ = config.set_max_write(MAX_IO);
    let _ = config.set_max_background(BACKGROUND);
}

/// Answers with success or the error.
pub(super) fn reply_empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers with bytes or the error.
pub(super) fn reply_data(reply: ReplyData, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(data) => reply.data(&data),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers with how much was written, which the library's callers bound to 32 bits.
pub(super) fn reply_written(reply: ReplyWrite, result: Result<u64, Errno>) {
    match result {
        Ok(written) => reply.written(written as u32),
        Err(error) => reply.error(errno(error)),
    }
}

/// Answers statfs(2).
pub(super) fn reply_space(reply: ReplyStatfs, result: Result<Space, Errno>) {
    match result {
        Ok(space) => reply.statfs(
            space.blocks,
            space.blocks_free,
            space.blocks_available,
            space.files,
            space.files_free,
            space.block_size,
            space.name_max,
            space.fragment_size,
        ),
        Err(error) => reply.error(errno(error)),
    }
}

/// The protocol of the two calls that return attribute values: 0 asks for the length.
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, result: Result<Vec<u8>, Errno>) {
    match result {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(errno(error)),
    }
}

/// What the attribute `name` can be asked for; only those for users travel.
pub(super) fn user_xattr(name: &OsStr, otherwise: Errno) -> Result<Name, Errno> {
    match name.as_bytes().starts_with(b"user.") {
        true => name_of(name),
        false => Err(otherwise),
    }
}

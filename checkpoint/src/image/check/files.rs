//! Open files, sockets, terminals and what stands in for vanished paths.

use std::collections::BTreeMap;

use super::super::ImageError;
use super::super::name::{FileKind, FileName};
use super::super::proto::{
    File, Fs, GhostFile, InetSocket, Mm, RegFile, RemapPath, TtyInfo, UnixSocket,
};
use super::mounts::MountIds;
use super::tasks::Namespaces;
use super::{Allowed, Image, refuse, shown};

/// Kinds of open files (`fd_types` of CRIU) that a capsule may have.
mod kind {
    pub(super) const REG: i32 = 1;
    pub(super) const INET: i32 = 4;
    pub(super) const UNIX: i32 = 5;
    /// Regular, pipe, fifo, inet, unix, eventfd, epoll, inotify, signalfd, tty, netlink, timerfd,
    /// memfd, pidfd. Not: packet sockets, fanotify, namespaces, tun, external files, BPF maps.
    pub(super) const ALLOWED: [i32; 14] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 17, 18, 20];
}

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const SOCK_STREAM: u32 = 1;
const SOCK_DGRAM: u32 = 2;
const TCP_ESTABLISHED: u32 = 1;
/// External, service, callback, inherited: Unix sockets with an end outside.
const OUTSIDE_UNIX_FLAGS: u32 = 0b1111;
/// `/dev/tty`.
const TTY_RDEV: u32 = 0x500;
const TTY_PTY: i32 = 1;
const TTY_CURRENT: i32 = 4;
const TTY_EXTERNAL: i32 = 5;
const REMAP_GHOST: i32 = 1;
const REMAP_PROC: i32 = 2;
const MODE_TYPE: u32 = 0o170_000;
const MODE_CHARACTER: u32 = 0o020_000;
const MODE_BLOCK: u32 = 0o060_000;
const MODE_SET_IDS: u32 = 0o6000;

pub(super) fn check(
    image: &Image,
    allowed: &Allowed,
    mounts: &MountIds,
    namespaces: &Namespaces,
) -> Result<(), ImageError> {
    let name = image.get(FileKind::Files, 0)?;
    let mut regular: BTreeMap<u32, RegFile> = BTreeMap::new();
    for file in image.all::<File>(name)? {
        check_file(name, &file, mounts, namespaces)?;
        if let Some(reg) = file.reg {
            regular.insert(reg.id, reg);
        }
    }
    for name in image.of_kind(FileKind::Fs) {
        let fs: Fs = image.one(name)?;
        match regular.get(&fs.root_id).map(|file| file.name.as_slice()) {
            Some(b"/") => {}
            other => return refuse(name, "root_id", shown(other.unwrap_or(b"no file")), "/"),
        }
        if !regular.contains_key(&fs.cwd_id) {
            return refuse(name, "cwd_id", fs.cwd_id, "a file of files.img");
        }
    }
    for name in image.of_kind(FileKind::Mm) {
        let id = image.one::<Mm>(name)?.exe_file_id;
        if !regular.contains_key(&id) {
            return refuse(name, "exe_file_id", id, "a file of files.img");
        }
    }
    check_terminals(image, allowed)?;
    check_remaps(image)
}

fn check_file(
    name: &FileName,
    file: &File,
    mounts: &MountIds,
    namespaces: &Namespaces,
) -> Result<(), ImageError> {
    if !kind::ALLOWED.contains(&file.kind) {
        return refuse(name, format!("type of file {}", file.id), file.kind, "a kind apps may use");
    }
    let missing =
        |what: &str| refuse(name, format!("{what} of file {}", file.id), "absent", "present");
    match file.kind {
        kind::REG if file.reg.is_none() => return missing("reg"),
        kind::INET if file.inet.is_none() => return missing("isk"),
        kind::UNIX if file.unix.is_none() => return missing("usk"),
        _ => {}
    }
    // A message that does not fit the type is read by nobody, but must be harmless all the same.
    if let Some(reg) = &file.reg {
        check_regular(name, reg, mounts)?;
    }
    if let Some(socket) = &file.inet {
        check_inet(name, socket, namespaces)?;
    }
    if let Some(socket) = &file.unix {
        check_unix(name, socket, namespaces)?;
    }
    Ok(())
}

/// An absolute path without `..`: CRIU opens it inside the restored root.
fn is_plain_path(path: &[u8]) -> bool {
    path.starts_with(b"/")
        && !path.contains(&0)
        && path.split(|byte| *byte == b'/').all(|part| part != b"..")
}

fn check_regular(name: &FileName, file: &RegFile, mounts: &MountIds) -> Result<(), ImageError> {
    let field = |what: &str| format!("{what} of file {}", file.id);
    if !is_plain_path(&file.name) {
        return refuse(name, field("name"), shown(&file.name), "a path inside without `..`");
    }
    if file.ext == Some(true) {
        return refuse(name, field("ext"), "set", "not set");
    }
    let mount = file.mnt_id.and_then(|id| u32::try_from(id).ok());
    match mount {
        Some(id) if mounts.contains(&id) => Ok(()),
        _ => refuse(name, field("mnt_id"), format!("{:?}", file.mnt_id), "a mount of the capsule"),
    }
}

fn check_inet(
    name: &FileName,
    socket: &InetSocket,
    namespaces: &Namespaces,
) -> Result<(), ImageError> {
    let field = |what: &str| format!("{what} of socket {}", socket.id);
    if ![AF_INET, AF_INET6].contains(&socket.family) {
        return refuse(name, field("family"), socket.family, "IPv4 or IPv6");
    }
    if ![SOCK_STREAM, SOCK_DGRAM].contains(&socket.kind) {
        return refuse(name, field("type"), socket.kind, "stream or datagram");
    }
    check_net(name, field("ns_id"), socket.ns_id, namespaces)?;
    if socket.kind == SOCK_STREAM && socket.state == TCP_ESTABLISHED {
        for (what, address) in [("src_addr", &socket.src_addr), ("dst_addr", &socket.dst_addr)] {
            if !is_loopback(address) {
                return refuse(name, field(what), format!("{address:08x?}"), "a loopback address");
            }
        }
    }
    Ok(())
}

/// Words of the address as they stand in memory.
fn is_loopback(words: &[u32]) -> bool {
    let v4 = |word: u32| word.to_le_bytes()[0] == 127;
    match words {
        [word] => v4(*word),
        [0, 0, 0, last] => *last == 1u32.to_be(),
        [0, 0, mapped, last] => *mapped == 0xffffu32.to_be() && v4(*last),
        _ => false,
    }
}

fn check_net(
    name: &FileName,
    field: String,
    found: Option<u32>,
    namespaces: &Namespaces,
) -> Result<(), ImageError> {
    match (found, namespaces.net) {
        (None, _) => Ok(()),
        (Some(id), Some(own)) if id == own => Ok(()),
        (Some(_), None) => Ok(()),
        (Some(id), Some(own)) => refuse(name, field, id, own),
    }
}

fn check_unix(
    name: &FileName,
    socket: &UnixSocket,
    namespaces: &Namespaces,
) -> Result<(), ImageError> {
    let field = |what: &str| format!("{what} of socket {}", socket.id);
    if socket.uflags & OUTSIDE_UNIX_FLAGS != 0 {
        let found = format!("{:#x}", socket.uflags);
        return refuse(name, field("uflags"), found, "without an end outside");
    }
    if let Some(directory) = socket.name_dir.as_deref().filter(|path| !is_plain_path(path)) {
        return refuse(name, field("name_dir"), shown(directory), "a path inside without `..`");
    }
    check_net(name, field("ns_id"), socket.ns_id, namespaces)
}

fn check_terminals(image: &Image, allowed: &Allowed) -> Result<(), ImageError> {
    let Ok(name) = image.get(FileKind::TtyInfo, 0) else {
        return Ok(());
    };
    for terminal in image.all::<TtyInfo>(name)? {
        let field = |what: &str| format!("{what} of terminal {}", terminal.id);
        match terminal.kind {
            TTY_PTY => {}
            TTY_CURRENT if terminal.rdev == TTY_RDEV => {}
            TTY_EXTERNAL => {
                let wanted = allowed.terminal.map(|key| (key.rdev, key.dev));
                let found = (u64::from(terminal.rdev), u64::from(terminal.dev.unwrap_or(0)));
                if wanted != Some(found) {
                    let found = format!("{:x}:{:x}", found.0, found.1);
                    return refuse(name, field("rdev:dev"), found, "the app's terminal");
                }
            }
            other => {
                return refuse(name, field("type"), other, "the app's or a private terminal");
            }
        }
    }
    Ok(())
}

fn check_remaps(image: &Image) -> Result<(), ImageError> {
    if let Ok(name) = image.get(FileKind::RemapPaths, 0) {
        for remap in image.all::<RemapPath>(name)? {
            if !matches!(remap.kind, Some(REMAP_GHOST | REMAP_PROC)) {
                let field = format!("remap_type of file {}", remap.orig_id);
                return refuse(name, field, format!("{:?}", remap.kind), "ghost or proc");
            }
        }
    }
    for name in image.of_kind(FileKind::GhostFile) {
        let ghost: GhostFile = image.first(name)?;
        if [MODE_CHARACTER, MODE_BLOCK].contains(&(ghost.mode & MODE_TYPE)) {
            return refuse(name, "mode", format!("{:o}", ghost.mode), "no device");
        }
        if ghost.mode & MODE_SET_IDS != 0 {
            return refuse(name, "mode", format!("{:o}", ghost.mode), "without set-id bits");
        }
    }
    Ok(())
}

//! The mount namespace: exactly the planned mounts.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;

use super::super::ImageError;
use super::super::name::{FileKind, FileName};
use super::super::proto::Mount;
use super::{Allowed, AllowedMount, Image, MountKind, refuse, shown};

const READ_ONLY: u32 = 1;
const NOSUID: u32 = 2;
const NODEV: u32 = 4;

/// File system numbers of mount images.
const PROC: u32 = 1;
const SYSFS: u32 = 2;
const TMPFS: u32 = 5;
const DEVPTS: u32 = 6;

/// Mount options a private file system may have.
const TMPFS_OPTIONS: &[&str] =
    &["mode", "size", "nr_inodes", "nr_blocks", "uid", "gid", "huge", "inode64", "inode32"];
const DEVPTS_OPTIONS: &[&str] = &["uid", "gid", "mode", "ptmxmode", "newinstance", "max"];
const PROC_OPTIONS: &[&str] = &["hidepid", "gid", "subset"];

/// The mounts of the capsule, by their numbers in the image.
pub(super) type MountIds = BTreeSet<u32>;

/// Exactly the planned mounts, as planned.
pub(super) fn check(image: &Image, allowed: &Allowed, mnt_ns: u32) -> Result<MountIds, ImageError> {
    let name = image.get(FileKind::Mountpoints, mnt_ns)?;
    if let Some(other) = image.of_kind(FileKind::Mountpoints).find(|other| other.number() != mnt_ns)
    {
        return refuse(other, "the file", "a second mount namespace", "absent");
    }
    let mut planned: BTreeMap<&[u8], &AllowedMount> = BTreeMap::new();
    for mount in &allowed.mounts {
        planned.insert(mount.inside.as_os_str().as_bytes(), mount);
    }
    let mut ids = MountIds::new();
    for mount in image.all::<Mount>(name)? {
        let Some(plan) = planned.remove(&mount.mountpoint[..]) else {
            let found = shown(&mount.mountpoint);
            return refuse(name, "a mount", found, "one of the capsule's, once");
        };
        check_one(name, &mount, plan)?;
        if !ids.insert(mount.mnt_id) {
            return refuse(name, "mnt_id", mount.mnt_id, "a number of its own");
        }
    }
    match planned.keys().next() {
        Some(missing) => refuse(name, format!("the mount {}", shown(missing)), "absent", "present"),
        None => Ok(ids),
    }
}

fn check_one(name: &FileName, mount: &Mount, plan: &AllowedMount) -> Result<(), ImageError> {
    let field = |what: &str| format!("{what} of the mount {}", shown(&mount.mountpoint));
    if mount.flags & NOSUID == 0 {
        return refuse(name, field("flags"), format!("{:#x}", mount.flags), "with nosuid");
    }
    if !plan.devices && mount.flags & NODEV == 0 {
        return refuse(name, field("flags"), format!("{:#x}", mount.flags), "with nodev");
    }
    if plan.read_only && mount.flags & READ_ONLY == 0 {
        return refuse(name, field("flags"), format!("{:#x}", mount.flags), "read-only");
    }
    for (what, number) in [("shared_id", mount.shared_id), ("master_id", mount.master_id)] {
        if let Some(number) = number.filter(|&number| number != 0) {
            return refuse(name, field(what), number, "absent: no mount is shared");
        }
    }
    for (what, flag) in [
        ("with_plugin", mount.with_plugin),
        ("ext_mount", mount.ext_mount),
        ("internal_sharing", mount.internal_sharing),
        ("deleted", mount.deleted),
    ] {
        if flag == Some(true) {
            return refuse(name, field(what), "set", "not set");
        }
    }
    let (fstype, options) = match &plan.kind {
        MountKind::Root => return no_key(name, mount),
        MountKind::External { key } => {
            return match &mount.ext_key {
                Some(found) if found == key => Ok(()),
                found => refuse(name, field("ext_key"), found.as_deref().unwrap_or("absent"), key),
            };
        }
        MountKind::Proc => (PROC, PROC_OPTIONS),
        MountKind::Sysfs => (SYSFS, [].as_slice()),
        MountKind::Tmpfs => (TMPFS, TMPFS_OPTIONS),
        MountKind::Devpts => (DEVPTS, DEVPTS_OPTIONS),
    };
    no_key(name, mount)?;
    if mount.fstype != fstype {
        return refuse(name, field("fstype"), mount.fstype, fstype);
    }
    if mount.root != b"/" {
        return refuse(name, field("root"), shown(&mount.root), "/");
    }
    let known = |option: &&str| {
        let key = option.split_once('=').map_or(*option, |(key, _)| key);
        option.is_empty() || options.contains(&key)
    };
    match shown(&mount.options).split(',').find(|option| !known(option)) {
        Some(option) => refuse(name, field("options"), option, format!("one of {options:?}")),
        None => Ok(()),
    }
}

fn no_key(name: &FileName, mount: &Mount) -> Result<(), ImageError> {
    match &mount.ext_key {
        Some(key) => {
            let what = format!("ext_key of the mount {}", shown(&mount.mountpoint));
            refuse(name, what, key, "absent")
        }
        None => Ok(()),
    }
}

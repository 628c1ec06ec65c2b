//! Mounting, and making sure that it ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, openat, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
};

use super::{MountError, Owners, Tree};
use crate::client::Client;
use crate::proto::MAX_IO;

/// How much is read ahead of a program that reads a file from front to back, in KiB.
const READ_AHEAD_KIB: u32 = 1024;

/// A tree mounted through FUSE. Dropping it unmounts it, whoever still uses it.
#[derive(Debug)]
pub struct Mount {
    path: PathBuf,
    /// Its root. While this is open the connection's number belongs to no other mount.
    root: OwnedFd,
    session: Option<BackgroundSession>,
    client: Arc<Client>,
    attached: bool,
}

impl Mount {
    /// Shows `client`'s files at `path`, with the owners `owners` says. Must be root in the
    /// initial user namespace. Requests are served by `threads` threads.
    ///
    /// # Errors
    /// Says which step failed.
    pub fn new(
        client: Arc<Client>,
        path: &Path,
        owners: Owners,
        threads: usize,
    ) -> Result<Self, MountError> {
        let failed = |step| {
            let path = path.to_owned();
            move |error: io::Error| MountError { step, path, error }
        };
        let device = open("/dev/fuse", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| failed("open /dev/fuse")(error.into()))?;
        let root =
            mount_device(&device, path, &client).map_err(|error| failed("mount")(error.into()))?;
        let mut mounted = Self {
            path: path.to_owned(),
            root,
            session: None,
            client: Arc::clone(&client),
            attached: true,
        };
        let mut config = Config::default();
        config.acl = SessionACL::All;
        config.n_threads = Some(threads.max(1));
        config.clone_fd = true;
        let session = Session::from_fd(Tree::new(client, owners), device, SessionACL::All, config)
            .and_then(Session::spawn)
            .map_err(failed("start the session of"))?;
        mounted.session = Some(session);
        raise_read_ahead(connection_of(&mounted.root).map_err(failed("look at"))?);
        Ok(mounted)
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The client behind it.
    pub fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// Unmounts. Programs that still use the tree get `ENOTCONN`. Does not wait for home.
    ///
    /// # Errors
    /// When the kernel refuses to take it off its place, or its end cannot be forced.
    pub fn unmount(mut self) -> Result<(), MountError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), MountError> {
        let path = self.path.clone();
        let failed = |step| move |error| MountError { step, path, error };
        let detached = match std::mem::take(&mut self.attached) {
            true => detach(&self.path).map_err(failed.clone()("unmount")),
            false => Ok(()),
        };
        let Some(session) = self.session.take() else {
            return detached;
        };
        // Whoever waits for home need not any more.
        self.client.close();
        connection_of(&self.root).and_then(abort).map_err(failed("end the session of"))?;
        // Its threads see the end of the connection now.
        if session.join().is_err() {
            tracing::warn!(path = %self.path.display(), "a thread of a mount ended badly");
        }
        detached
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            tracing::error!(%error, "a mount could not be removed");
        }
    }
}

/// Takes whatever is mounted at `path` off its place, even if it is in use or its server has
/// died: for cleaning up after a process that was killed.
///
/// # Errors
/// `EINVAL` when nothing is mounted there.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?)
}

/// Gives back the mount's root.
fn mount_device(device: &OwnedFd, path: &Path, client: &Client) -> rustix::io::Result<OwnedFd> {
    let context = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let mode = 0o040_000 | u32::from(client.root_attr().perm);
    for (option, value) in [
        ("source", "phantom"),
        ("subtype", "phantom"),
        ("fd", &device.as_raw_fd().to_string()),
        ("rootmode", &format!("{mode:o}")),
        ("user_id", "0"),
        ("group_id", "0"),
        ("max_read", &MAX_IO.to_string()),
    ] {
        fsconfig_set_string(&context, option, value)?;
    }
    for option in ["allow_other", "default_permissions"] {
        fsconfig_set_flag(&context, option)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    move_mount(&root, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(root)
}

/// The number in fusectl of the FUSE connection with this root, without asking its server anything.
fn connection_of(root: &OwnedFd) -> io::Result<u32> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::EMPTY_PATH;
    let stat = statx(root, c"", flags, StatxFlags::TYPE)?;
    // The kernel's own form of a device number.
    Ok(stat.stx_dev_major << 20 | stat.stx_dev_minor)
}

/// Fails everything that waits on a connection and ends it. Goes through a fusectl of its own,
/// so it does not matter whether /sys shows one.
fn abort(connection: u32) -> io::Result<()> {
    let context = fsopen("fusectl", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let root = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let path = format!("{connection}/abort");
    match openat(&root, &*path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => File::from(file).write_all(b"1"),
        // It ended when it was unmounted.
        Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The kernel caps a FUSE mount's read-ahead at 128 KiB unless told otherwise. Without it
/// reading is slower; so if /sys is not there, it stays.
fn raise_read_ahead(connection: u32) {
    let path =
        format!("/sys/class/bdi/{}:{}/read_ahead_kb", connection >> 20, connection & 0xfffff);
    if let Err(error) = std::fs::write(&path, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(%path, %error, "read-ahead stays at the kernel's default");
    }
}

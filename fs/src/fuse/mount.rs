//! Mounting, and making sure that it ends.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fuser::{BackgroundSession, Config, Session, SessionACL};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, open, openat, statx};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, UnmountFlags, fsconfig_create, fsmount,
    fsopen, mount, unmount,
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
    /// The connection's number in fusectl.
    connection: u32,
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
        mount_device(&device, path, &client).map_err(|error| failed("mount")(error.into()))?;
        let mut mounted = Self {
            path: path.to_owned(),
            connection: 0,
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
        mounted.connection =
            connection_of(path).map_err(|error| failed("look at")(error.into()))?;
        raise_read_ahead(mounted.connection);
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
        abort(self.connection).map_err(failed("end the session of"))?;
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

fn mount_device(device: &OwnedFd, path: &Path, client: &Client) -> rustix::io::Result<()> {
    let options = format!(
        "fd={},rootmode={:o},user_id=0,group_id=0,allow_other,default_permissions,max_read={MAX_IO}\0",
        device.as_raw_fd(),
        0o040_000 | u32::from(client.root_attr().perm),
    );
    let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes());
    let options = options.map_err(|_| rustix::io::Errno::INVAL)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    mount("phantom", path, "fuse.phantom", flags, options)
}

/// The number of the FUSE connection mounted at `path`, without asking its server anything.
fn connection_of(path: &Path) -> rustix::io::Result<u32> {
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    let stat = statx(CWD, path, flags, StatxFlags::TYPE)?;
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

//! Host paths for the external things of a capsule that is to be restored.
//!
//! Away, everything is below one FUSE root ([`away`]). At home the root and the user's folders
//! are mounted with the capsule's ids in a place of the shim ([`HomeStage`]), best in a mount
//! namespace of its own ([`private_mount_namespace`]): then nothing is left behind even when the
//! shim is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags};

use super::prepare::Views;
use super::{spawn, sys};
use crate::Error;
use crate::capsule::Capsule;
use crate::plan::{External, ExternalKind};

/// What a restore needs: the root, and the host path of each external thing that has one by its
/// key. The console is not in it: its path is the new slave's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePaths {
    /// A mount point.
    pub root: PathBuf,
    /// Key and host path.
    pub externals: Vec<(String, PathBuf)>,
}

/// The paths on a host where the home's tree is mounted on `fuse_root`, under the names it has at
/// home.
pub fn away(externals: &[External], fuse_root: &Path) -> RestorePaths {
    let below = |external: &External| {
        let inside = external.inside.to_path();
        fuse_root.join(inside.strip_prefix("/").unwrap_or(&inside))
    };
    RestorePaths { root: fuse_root.to_owned(), externals: resolve(externals, below) }
}

fn resolve(externals: &[External], files: impl Fn(&External) -> PathBuf) -> Vec<(String, PathBuf)> {
    let path = |external: &External| match &external.kind {
        ExternalKind::Console => None,
        ExternalKind::Device { name } => Some(Path::new("/dev").join(name)),
        ExternalKind::UserFiles | ExternalKind::SystemFiles => Some(files(external)),
    };
    externals.iter().filter_map(|external| Some((external.key.clone(), path(external)?))).collect()
}

/// Takes the calling process, which must have one thread only, into a mount namespace of its own:
/// later mounts of the host appear in it, its own mounts stay private.
pub fn private_mount_namespace() -> Result<(), Error> {
    let wrong = |errno: nix::errno::Errno| Error::Stage {
        action: "make private the mount table of",
        path: "/".into(),
        source: errno.into(),
    };
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).map_err(wrong)?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).map_err(wrong)
}

/// The home's files mounted with a capsule's ids, until dropped.
#[derive(Debug)]
pub struct HomeStage {
    dir: PathBuf,
    paths: RestorePaths,
    mounted: Vec<PathBuf>,
}

impl HomeStage {
    /// Mounts the root at `dir/root` and every other piece of the home's tree at `dir/ext/N`.
    /// What the app sees served comes from `served`, as in [`spawn::start`].
    pub fn new(dir: &Path, capsule: &Capsule, served: Option<&Path>) -> Result<Self, Error> {
        let views = Views { id_map: spawn::id_namespace(&capsule.ids)?, served };
        let mut stage = Self {
            dir: dir.to_owned(),
            paths: RestorePaths { root: dir.join("root"), externals: Vec::new() },
            mounted: Vec::new(),
        };
        let place = |index: usize| match index {
            0 => dir.join("root"),
            _ => dir.join("ext").join(index.to_string()),
        };
        for (index, bind) in capsule.binds.iter().enumerate() {
            let at = place(index);
            // An error drops the stage, which takes down what is up so far.
            make_mount_point(&views.place(bind)?, &at)?;
            let mount = views.bind(bind, false)?;
            let target = spawn::c_string(at.as_os_str())?;
            sys::move_mount(std::os::fd::AsRawFd::as_raw_fd(&mount), &target)
                .map_err(wrong("mount the app's files on", &at))?;
            stage.mounted.push(at);
        }
        stage.paths.externals = resolve(&capsule.externals, |external| {
            let index = capsule.binds.iter().position(|bind| bind.inside == external.inside);
            place(index.unwrap_or(0))
        });
        Ok(stage)
    }

    /// The paths for the restore.
    pub fn paths(&self) -> &RestorePaths {
        &self.paths
    }

    /// Takes the mounts away; what is still in use goes when it is no longer used.
    pub fn remove(mut self) -> Result<(), Error> {
        self.take_down()
    }

    fn take_down(&mut self) -> Result<(), Error> {
        while let Some(at) = self.mounted.pop() {
            nix::mount::umount2(&at, MntFlags::MNT_DETACH)
                .map_err(|errno| wrong("unmount", &at)(errno.into()))?;
        }
        for name in ["root", "ext"] {
            let path = self.dir.join(name);
            match remove_empty_tree(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(wrong("remove", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

impl Drop for HomeStage {
    fn drop(&mut self) {
        if let Err(error) = self.take_down() {
            tracing::warn!(%error, "a staged root was not fully taken away");
        }
    }
}

/// Removes the folder and what is directly in it, without ever going into a mount.
fn remove_empty_tree(path: &Path) -> io::Result<()> {
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            fs::remove_dir(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_dir(path)
}

fn make_mount_point(source: &Path, at: &Path) -> Result<(), Error> {
    let meta = fs::metadata(source).map_err(wrong("look at", source))?;
    if meta.is_dir() {
        return fs::create_dir_all(at).map_err(wrong("make", at));
    }
    let made = fs::create_dir_all(at.parent().unwrap_or(at)).and_then(|()| fs::write(at, b""));
    made.map_err(wrong("make", at))
}

fn wrong(action: &'static str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let path = path.to_owned();
    move |source| Error::Stage { action, path: path.clone(), source }
}

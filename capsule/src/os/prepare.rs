//! Makes the mounts of a plan without attaching them, and compiles the steps that will.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::spawn::{c_string, c_text, id_namespace};
use super::sys::{self, attr};
use phantom_model::app::OsText;

use crate::Error;
use crate::capsule::BindMount;
use crate::plan::{CapsulePlan, MountKind, RootStep, Shown};

/// The init of every capsule; see `src/init`.
const INIT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));

/// One step in building the root, ready for system calls.
pub(super) enum Op {
    /// Attach a prepared mount.
    Attach { mount: RawFd, to: CString },
    /// Make and attach a new file system.
    Mount { fstype: &'static CStr, to: CString, flags: libc::c_ulong, data: CString },
    /// Make a folder.
    Folder { path: CString, mode: libc::mode_t, owner: Option<(u32, u32)> },
    /// Make a symbolic link.
    Symlink { target: CString, path: CString },
    /// Make a file.
    File { path: CString, mode: libc::mode_t, content: Vec<u8> },
}
impl Op {
    /// What it does, for messages.
    pub(super) fn describe(&self) -> String {
        match self {
            Op::Attach { to, .. } => format!("attach {}", to.to_string_lossy()),
            Op::Mount { fstype, to, .. } => {
                format!("mount {} on {}", fstype.to_string_lossy(), to.to_string_lossy())
            }
            Op::Folder { path, .. } => format!("make the folder {}", path.to_string_lossy()),
            Op::Symlink { path, .. } => format!("make the link {}", path.to_string_lossy()),
            Op::File { path, .. } => format!("write {}", path.to_string_lossy()),
        }
    }
}

/// The mounts of a plan, made but not attached, and the steps to attach them.
pub(super) struct Prepared {
    pub(super) root: OwnedFd,
    pub(super) ops: Vec<Op>,
    /// Keeps the detached mounts open until the child has them.
    _mounts: Vec<OwnedFd>,
    pub(super) binds: Vec<BindMount>,
    pub(super) notes: Vec<String>,
}

/// Makes every mount of the plan; what cannot be had and is not vital is left out with a note.
pub(super) fn prepare(
    plan: &CapsulePlan,
    served: Option<&Path>,
    slave: BorrowedFd<'_>,
) -> Result<Prepared, Error> {
    let mut work = Preparation {
        views: Views { id_map: id_namespace(&plan.ids)?, served },
        mounts: Vec::new(),
        ops: Vec::new(),
        binds: Vec::new(),
        notes: plan.notes.clone(),
    };
    for step in &plan.steps {
        match step {
            RootStep::Mount { inside, kind: MountKind::Bind { .. } } => work.bind(inside, step)?,
            RootStep::Mount { inside, kind: MountKind::Console } => {
                work.attach(bind_terminal(slave)?, inside)?;
            }
            other => work.ops.push(compile(other, plan)?),
        }
    }
    let Preparation { mut mounts, ops, binds, notes, .. } = work;
    if mounts.is_empty() || binds.is_empty() {
        let source = io::ErrorKind::InvalidInput.into();
        return Err(Error::Setup { step: "find the root in the plan".into(), source });
    }
    let root = mounts.remove(0);
    Ok(Prepared { root, ops, _mounts: mounts, binds, notes })
}

/// [`prepare`] at work.
struct Preparation<'a> {
    views: Views<'a>,
    mounts: Vec<OwnedFd>,
    ops: Vec<Op>,
    binds: Vec<BindMount>,
    notes: Vec<String>,
}

impl Preparation<'_> {
    fn attach(&mut self, mount: OwnedFd, inside: &OsText) -> Result<(), Error> {
        // The first is the root itself, which is not attached but taken.
        if !self.mounts.is_empty() {
            self.ops.push(Op::Attach { mount: mount.as_raw_fd(), to: c_text(inside)? });
        }
        self.mounts.push(mount);
        Ok(())
    }

    fn bind(&mut self, inside: &OsText, step: &RootStep) -> Result<(), Error> {
        let RootStep::Mount { kind: MountKind::Bind { source, shown, read_only, devices }, .. } =
            step
        else {
            return Ok(());
        };
        let wanted = BindMount {
            inside: inside.clone(),
            source: source.clone(),
            shown: *shown,
            read_only: *read_only,
        };
        let is_root = self.mounts.is_empty();
        let mount = match self.views.bind(&wanted, *devices) {
            Ok(mount) => mount,
            // A folder of a file system that is gone or refuses must not stop the app, except
            // where its own files or its system are.
            Err(error) if is_root || !read_only || *devices => return Err(error),
            // What its user may not see is no news.
            Err(Error::PrepareMount { source, .. })
                if *shown == Shown::Served && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                return Ok(());
            }
            Err(error) => {
                self.notes.push(format!("{inside} is not visible to it: {error}"));
                return Ok(());
            }
        };
        self.attach(mount, inside)?;
        if !devices {
            self.binds.push(wanted);
        }
        Ok(())
    }
}

/// The ways to show an app a piece of the host's tree.
pub(super) struct Views<'a> {
    /// A user namespace with the capsule's ids.
    pub(super) id_map: OwnedFd,
    /// Where the host's tree is mounted through Phantom's file server, if it is.
    pub(super) served: Option<&'a Path>,
}

impl Views<'_> {
    /// The path that leads to what is to be shown.
    pub(super) fn place(&self, wanted: &BindMount) -> Result<PathBuf, Error> {
        let source = wanted.source.to_path();
        match (wanted.shown, self.served) {
            (Shown::Mapped | Shown::AsIs, _) => Ok(source),
            (Shown::Served, Some(root)) => Ok(match source.strip_prefix("/") {
                Ok(below) if below.as_os_str().is_empty() => root.to_owned(),
                Ok(below) => root.join(below),
                Err(_) => source,
            }),
            (Shown::Served, None) => Err(Error::PrepareMount {
                source_path: source,
                action: "serve it",
                source: io::ErrorKind::NotConnected.into(),
            }),
        }
    }

    /// A detached mount of a piece of the host's tree.
    pub(super) fn bind(&self, wanted: &BindMount, devices: bool) -> Result<OwnedFd, Error> {
        let failed = |action: &'static str| {
            let source_path = wanted.source.to_path();
            move |source| Error::PrepareMount { source_path, action, source }
        };
        // The plan's paths have no symbolic links. One that is there now was put there since,
        // perhaps to show the app a folder its user may not enter.
        let place = sys::open_path(&self.place(wanted)?).map_err(failed("open it"))?;
        let mount = sys::open_tree(place.as_fd()).map_err(failed("copy the mount"))?;
        let mut attributes = attr::NOSUID;
        if !devices {
            attributes |= attr::NODEV;
        }
        if wanted.read_only {
            attributes |= attr::RDONLY;
        }
        sys::mount_setattr(mount.as_fd(), attributes, None).map_err(failed("restrict it"))?;
        if wanted.shown == Shown::Mapped {
            sys::mount_setattr(mount.as_fd(), 0, Some(self.id_map.as_fd()))
                .map_err(failed("show it with the app's ids"))?;
        }
        Ok(mount)
    }
}

fn bind_terminal(slave: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    let failed = |source| Error::Terminal { action: "bind the app's terminal", source };
    let mount = sys::open_tree(slave).map_err(failed)?;
    sys::mount_setattr(mount.as_fd(), attr::NOSUID, None).map_err(failed)?;
    Ok(mount)
}

fn compile(step: &RootStep, plan: &CapsulePlan) -> Result<Op, Error> {
    const COMMON: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV;
    Ok(match step {
        RootStep::Mount { inside, kind } => {
            let (fstype, flags, data) = match kind {
                MountKind::Tmpfs { mode, executable } => {
                    let flags = if *executable { COMMON } else { COMMON | libc::MS_NOEXEC };
                    // Nodes bound on /dev carry their own flags.
                    (c"tmpfs", flags, format!("mode={mode:o}"))
                }
                MountKind::Proc => (c"proc", COMMON | libc::MS_NOEXEC, String::new()),
                MountKind::Sysfs => {
                    (c"sysfs", COMMON | libc::MS_NOEXEC | libc::MS_RDONLY, String::new())
                }
                MountKind::Devpts => (
                    c"devpts",
                    libc::MS_NOSUID | libc::MS_NOEXEC,
                    "newinstance,ptmxmode=0666,mode=0620,gid=5".to_owned(),
                ),
                MountKind::Bind { .. } | MountKind::Console => {
                    return Err(Error::Setup {
                        step: format!("mount {inside}"),
                        source: io::ErrorKind::InvalidInput.into(),
                    });
                }
            };
            Op::Mount { fstype, to: c_text(inside)?, flags, data: c_string(OsStr::new(&data))? }
        }
        RootStep::Folder { inside, mode, owned_by_user } => Op::Folder {
            path: c_text(inside)?,
            mode: *mode,
            owner: owned_by_user.then_some((plan.uid, plan.gid)),
        },
        RootStep::Init { inside } => {
            Op::File { path: c_text(inside)?, mode: 0o755, content: INIT.to_vec() }
        }
        RootStep::Symlink { inside, target } => {
            Op::Symlink { target: c_text(target)?, path: c_text(inside)? }
        }
        RootStep::File { inside, mode, content } => {
            Op::File { path: c_text(inside)?, mode: *mode, content: content.clone() }
        }
    })
}

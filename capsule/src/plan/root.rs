//! The parts of the root that are the capsule's own: writable places, devices, kernel views.

use std::path::{Path, PathBuf};

use super::{CONSOLE_PATH, HostView, INIT_PATH, MountKind, RootStep, Shown};

/// Writable places of the capsule's own.
pub(super) fn private_places(steps: &mut Vec<RootStep>, uid: u32, host: &HostView) {
    steps.push(mount("/tmp", MountKind::Tmpfs { mode: 0o1777, executable: true }));
    steps.push(mount("/run", MountKind::Tmpfs { mode: 0o755, executable: true }));
    for (path, mode) in [("/run/phantom", 0o755), ("/run/lock", 0o1777), ("/run/user", 0o755)] {
        steps.push(folder(path, mode, false));
    }
    steps.push(RootStep::Init { inside: INIT_PATH.into() });
    steps.push(folder(&format!("/run/user/{uid}"), 0o700, true));
    let Some((path, content)) = &host.resolver else {
        return;
    };
    let Ok(below) = path.strip_prefix("/run") else {
        return;
    };
    let mut parent = PathBuf::from("/run");
    for part in below.parent().into_iter().flat_map(Path::components) {
        parent.push(part);
        if !steps.iter().any(|step| step.inside().to_path() == parent) {
            steps.push(RootStep::Folder {
                inside: (&parent).into(),
                mode: 0o755,
                owned_by_user: false,
            });
        }
    }
    steps.push(RootStep::File { inside: path.into(), mode: 0o644, content: content.clone() });
}

/// `/dev`: a few nodes of the host, private terminals, the app's terminal as console.
pub(super) fn devices(steps: &mut Vec<RootStep>, host: &HostView) {
    steps.push(mount("/dev", MountKind::Tmpfs { mode: 0o755, executable: false }));
    for name in &host.devices {
        let inside = format!("/dev/{name}");
        steps.push(file(&inside));
        let kind = MountKind::Bind {
            source: (&inside).into(),
            shown: Shown::AsIs,
            read_only: false,
            devices: true,
        };
        steps.push(mount(&inside, kind));
    }
    for (path, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
        ("/dev/ptmx", "pts/ptmx"),
    ] {
        steps.push(RootStep::Symlink { inside: path.into(), target: target.into() });
    }
    steps.push(folder("/dev/pts", 0o755, false));
    steps.push(mount("/dev/pts", MountKind::Devpts));
    steps.push(folder("/dev/shm", 0o1777, false));
    steps.push(mount("/dev/shm", MountKind::Tmpfs { mode: 0o1777, executable: true }));
    steps.push(file(CONSOLE_PATH));
    steps.push(mount(CONSOLE_PATH, MountKind::Console));
}

/// Processes and devices as the capsule's namespaces have them.
pub(super) fn kernel_views(steps: &mut Vec<RootStep>) {
    steps.push(mount("/proc", MountKind::Proc));
    steps.push(mount("/sys", MountKind::Sysfs));
}

fn mount(inside: &str, kind: MountKind) -> RootStep {
    RootStep::Mount { inside: inside.into(), kind }
}

fn folder(inside: &str, mode: u32, owned_by_user: bool) -> RootStep {
    RootStep::Folder { inside: inside.into(), mode, owned_by_user }
}

fn file(inside: &str) -> RootStep {
    RootStep::File { inside: inside.into(), mode: 0o644, content: Vec::new() }
}

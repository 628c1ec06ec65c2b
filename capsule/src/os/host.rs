//! Reads what a plan needs to know about this host.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use phantom_model::{AppSpec, Credentials};

use super::{rights, spawn, sys};
use crate::Error;
use crate::ids::{self, IdMaps};
use crate::mountinfo::{self, MountInfo};
use crate::plan::{self, DEVICE_NODES, HostView};

/// Longest resolver configuration that is taken along, in bytes.
const RESOLVER_MAX: usize = 64 * 1024;
/// What systemd-resolved offers to those who cannot reach its stub on the host's loopback.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// The host as `spec`'s app would start on it.
pub fn read(spec: &AppSpec) -> Result<HostView, Error> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |source: io::Error| Error::ReadHost { what, source }
    };
    // First, because looking may make the host mount something.
    let (home_dir, cwd) = rights::as_user(&spec.user, || (home_dir(spec), cwd(spec)))
        .map_err(failed("the user's directories"))?;
    let cwd = cwd?;
    let table =
        fs::read("/proc/thread-self/mountinfo").map_err(failed("/proc/thread-self/mountinfo"))?;
    let mounts = mountinfo::parse(&table)?;
    let hostname = nix::unistd::gethostname().map_err(|errno| Error::ReadHost {
        what: "the host's name".into(),
        source: errno.into(),
    })?;
    Ok(HostView {
        id_mappable: id_mappable(&mounts, [Some(&cwd), home_dir.as_ref()], &spec.user)?,
        mounts,
        has_fuse: is_device("fuse"),
        home_dir,
        cwd,
        hostname: (&hostname).into(),
        resolver: resolver(Path::new("/etc/resolv.conf")),
        devices: DEVICE_NODES
            .iter()
            .filter(|name| is_device(name))
            .map(|name| (*name).into())
            .collect(),
    })
}

fn home_dir(spec: &AppSpec) -> Option<PathBuf> {
    fs::canonicalize(spec.user.home_dir.to_path()).ok().filter(|path| path.is_dir())
}

/// The working directory, which its user must be able to enter: root will bind it into the
/// capsule, past the folders above it.
fn cwd(spec: &AppSpec) -> Result<PathBuf, Error> {
    let refused = |source: io::Error| Error::WorkingDirectory {
        cwd: spec.cwd.clone(),
        reason: match source.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("it cannot be entered by {}", spec.user.user)
            }
            _ => source.to_string(),
        },
    };
    let cwd = fs::canonicalize(spec.cwd.to_path()).map_err(refused)?;
    fs::metadata(cwd.join(".")).map_err(refused)?;
    Ok(cwd)
}

/// Which of the mounts that an app will see can be shown with other ids: found out by trying, on
/// copies that are attached nowhere.
fn id_mappable<'a>(
    mounts: &[MountInfo],
    places: impl IntoIterator<Item = Option<&'a PathBuf>>,
    user: &Credentials,
) -> Result<BTreeSet<u32>, Error> {
    let ids = spawn::id_namespace(&IdMaps::new(ids::LOWEST_BASE, user)?)?;
    let reachable = mountinfo::reachable(mounts);
    let under = places.into_iter().flatten().filter_map(|path| mountinfo::of(&reachable, path));
    let can_be = |mount: &&MountInfo| {
        sys::open_path(&mount.mount_point)
            .and_then(|place| sys::open_tree(place.as_fd()))
            .and_then(|copy| sys::mount_setattr(copy.as_fd(), 0, Some(ids.as_fd())))
            .is_ok()
    };
    Ok(plan::file_systems(&reachable).chain(under).filter(can_be).map(|mount| mount.id).collect())
}

fn is_device(name: &str) -> bool {
    fs::metadata(Path::new("/dev").join(name)).is_ok_and(|node| node.file_type().is_char_device())
}

/// The resolver's configuration when it lies where the capsule has a place of its own.
fn resolver(path: &Path) -> Option<(PathBuf, Vec<u8>)> {
    let link = fs::read_link(path).ok()?;
    let target = normal(&path.parent()?.join(link));
    target.strip_prefix("/run").ok()?;
    let mut content = fs::read(&target).ok()?;
    if only_loopback(&content)
        && let Ok(upstream) = fs::read(RESOLVED_UPSTREAM)
    {
        content = upstream;
    }
    (content.len() <= RESOLVER_MAX).then_some((target, content))
}

/// The path without `.` and `..`, by its text.
fn normal(path: &Path) -> PathBuf {
    let mut result = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                result.pop();
            }
            std::path::Component::CurDir => {}
            other => result.push(other),
        }
    }
    // /var/run is a link to /run wherever both exist.
    match result.strip_prefix("/var/run") {
        Ok(rest) => Path::new("/run").join(rest),
        Err(_) => result,
    }
}

/// Whether every name server named is on the host's own loopback, which a capsule cannot reach.
fn only_loopback(content: &[u8]) -> bool {
    let text = String::from_utf8_lossy(content);
    let mut servers = text.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    servers.all(|server| {
        let server = server.trim();
        server.starts_with("127.") || server == "::1"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_made_plain() {
        let path = Path::new("/etc/../run/systemd/resolve/stub-resolv.conf");
        assert_eq!(normal(path), Path::new("/run/systemd/resolve/stub-resolv.conf"));
        assert_eq!(normal(Path::new("/etc/../var/run/x")), Path::new("/run/x"));
    }

    #[test]
    fn stub_resolvers_are_known() {
        assert!(only_loopback(b"# x\nnameserver 127.0.0.53\noptions edns0\n"));
        assert!(!only_loopback(b"nameserver 127.0.0.53\nnameserver 192.0.2.1\n"));
    }
}

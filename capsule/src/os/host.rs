//! Reads what a plan needs to know about this host.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use phantom_model::AppSpec;

use crate::Error;
use crate::mountinfo;
use crate::plan::{DEVICE_NODES, HostView};

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
    let table =
        fs::read("/proc/thread-self/mountinfo").map_err(failed("/proc/thread-self/mountinfo"))?;
    let cwd = fs::canonicalize(spec.cwd.to_path()).map_err(|source| Error::WorkingDirectory {
        cwd: spec.cwd.clone(),
        reason: source.to_string(),
    })?;
    let hostname = nix::unistd::gethostname().map_err(|errno| Error::ReadHost {
        what: "the host's name".into(),
        source: errno.into(),
    })?;
    Ok(HostView {
        mounts: mountinfo::parse(&table)?,
        home_dir: fs::canonicalize(spec.user.home_dir.to_path()).ok().filter(|path| path.is_dir()),
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

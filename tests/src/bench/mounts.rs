//! Work in a mount namespace of its own: whatever it mounts, and whatever is written to what it
//! covers, is gone with it.

use std::path::Path;

use anyhow::Context;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

const NONE: Option<&str> = None;

/// Does `work` in a thread that has a mount namespace of its own, as what it starts has.
pub fn in_own_mounts<T: Send>(
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let in_thread = || {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_FS).context("no mount namespace")?;
        mount(NONE, "/", NONE, MsFlags::MS_PRIVATE | MsFlags::MS_REC, NONE)
            .context("the mounts cannot be made private")?;
        work()
    };
    std::thread::scope(|scope| {
        scope.spawn(in_thread).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Covers a directory with an empty tmpfs.
pub fn cover(path: &Path) -> anyhow::Result<()> {
    mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), NONE)
        .with_context(|| format!("mount a tmpfs on {}", path.display()))
}

/// Shows this machine's own system in `at`, read-only.
pub fn bind_system(at: &Path) -> anyhow::Result<()> {
    mount(Some("/"), at, NONE, MsFlags::MS_BIND, NONE).context("cannot bind /")?;
    let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, at, NONE, flags, NONE).context("cannot make the bind read-only")
}

//! The file server in a process of its own, in a user, mount and pid view like a capsule's.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use crate::common::{can_mount, open_root};
use phantom_fs::server::SelfFds;
use rustix::fs::{CWD, Mode, OFlags, openat};

/// A /proc of another pid namespace, as a capsule has it: mounted by a process that is pid 1.
#[test]
fn own_files_are_found_through_a_proc_that_was_handed_over() {
    if !can_mount("own_files_are_found") || !crate::common::has("own_files_are_found", "unshare") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let proc = dir.path().join("proc");
    fs::create_dir(&proc).unwrap();
    // It mounts, says so, and stays until its input ends.
    let script = format!("mount -t proc proc {} && echo ready && cat", proc.display());
    let mut other = std::process::Command::new("unshare")
        .args(["--pid", "--fork", "--mount", "--propagation", "private", "sh", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    other.stdout.as_mut().unwrap().read_exact(&mut ready).unwrap();
    let foreign = {
        let children = format!("/proc/{0}/task/{0}/children", other.id());
        let child = fs::read_to_string(children).unwrap();
        let path = format!("/proc/{}/root{}", child.trim(), proc.display());
        openat(CWD, path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .unwrap()
    };
    let error = SelfFds::below(foreign.as_fd()).unwrap_err();
    assert!(error.to_string().contains("does not show this process"), "{error}");
    let own: OwnedFd = open_root(Path::new("/proc"));
    SelfFds::below(own.as_fd()).unwrap();
    other.stdin.take().unwrap().flush().unwrap();
    other.wait().unwrap();
}

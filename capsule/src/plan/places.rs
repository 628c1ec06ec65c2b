//! Which paths and file systems belong to the system, to a capsule, or to other containers.

use std::path::Path;

/// Places a capsule has of its own; the host's are not seen.
const PRIVATE: [&str; 6] = ["/tmp", "/run", "/var/run", "/dev", "/proc", "/sys"];

/// Trees of the system: seen, never written.
const SYSTEM_TREES: [&str; 15] = [
    "/usr",
    "/etc",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/boot",
    "/var/lib",
    "/var/log",
    "/var/cache",
    "/var/spool",
    "/var/tmp",
    "/lost+found",
];

/// Folders that hold other users' folders: seen, not written as a whole.
const SHARED_FOLDERS: [&str; 7] = ["/", "/home", "/var", "/opt", "/srv", "/mnt", "/media"];

/// Mounts of container runtimes: many, short-lived and nobody's files.
const FOREIGN: [&str; 8] = [
    "/var/lib/docker",
    "/var/lib/containers",
    "/var/lib/containerd",
    "/var/lib/kubelet",
    "/var/lib/lxc",
    "/var/lib/lxd",
    "/var/lib/incus",
    "/var/lib/machines",
];

/// File systems without files of their own.
const PSEUDO: [&str; 23] = [
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fuse.gvfsd-fuse",
    "fuse.portal",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "ramfs",
    "rpc_pipefs",
    "securityfs",
    "sysfs",
    "tracefs",
];

/// File systems that are read-only images of software: everybody may read what is on them.
const IMAGES: [&str; 4] = ["cramfs", "erofs", "iso9660", "squashfs"];

fn below(path: &Path, trees: &[&str]) -> bool {
    trees.iter().any(|tree| path.starts_with(tree))
}

/// Whether the capsule has its own in place of the host's.
pub fn is_private(path: &Path) -> bool {
    below(path, &PRIVATE)
}

/// Whether it is the system's and so never writable for an app.
pub fn is_system(path: &Path) -> bool {
    below(path, &SYSTEM_TREES) || SHARED_FOLDERS.iter().any(|folder| path == Path::new(folder))
}

/// Whether a mount there belongs to a container runtime.
pub fn is_foreign(path: &Path) -> bool {
    below(path, &FOREIGN)
}

/// Whether the file system is an image that shows everybody the same.
pub fn is_image(fstype: &str) -> bool {
    IMAGES.contains(&fstype)
}

/// Whether the file system has no files of its own to show.
pub fn is_pseudo(fstype: &str) -> bool {
    PSEUDO.contains(&fstype)
}

//! The files an app has mapped or open: they are sent ahead, and their inodes kept alive at home.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use phantom_model::app::OsText;

/// More files than this are not held; the rest is found by name as ever.
const MAX_FILES: usize = 8_192;
/// Places that are private to each host.
const PRIVATE: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/memfd:"];

/// Paths as the app sees them, each with a handle on the inode.
pub fn files(pids: &[i32]) -> BTreeMap<OsText, OwnedFd> {
    let mut found = BTreeMap::new();
    for pid in pids {
        for place in ["map_files", "fd"] {
            let Ok(entries) = fs::read_dir(format!("/proc/{pid}/{place}")) else { continue };
            for entry in entries.flatten() {
                if found.len() < MAX_FILES {
                    note(&entry.path(), &mut found);
                }
            }
        }
    }
    found
}

fn note(link: &Path, found: &mut BTreeMap<OsText, OwnedFd>) {
    let Ok(target) = fs::read_link(link) else { return };
    let bytes = target.as_os_str().as_bytes();
    let is_file = bytes.starts_with(b"/") && !bytes.ends_with(b" (deleted)");
    if !is_file || PRIVATE.iter().any(|place| target.starts_with(place)) {
        return;
    }
    let path = OsText::from(&target);
    if found.contains_key(&path) {
        return;
    }
    let handle = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(link);
    let regular = |file: &File| file.metadata().is_ok_and(|meta| meta.is_file());
    if let Ok(handle) = handle
        && regular(&handle)
    {
        found.insert(path, handle.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_program_and_an_open_file_are_found() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let path = dir.path().join("open");
        let _open = File::create(&path).unwrap();
        let found = files(&[std::process::id() as i32]);
        let exe = std::env::current_exe().unwrap();
        assert!(found.contains_key(&OsText::from(&path)));
        assert!(found.contains_key(&OsText::from(&exe)) || exe.starts_with("/tmp"));
    }
}

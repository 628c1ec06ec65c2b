//! The kernel's mount table (`/proc/self/mountinfo`), and which of its mounts can be reached.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::Error;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// The mount's id.
    pub id: u32,
    /// The id of the mount it is attached to.
    pub parent: u32,
    /// Where it is attached, from the reader's root.
    pub mount_point: PathBuf,
    /// File system type.
    pub fstype: String,
    /// Whether the mount is read-only.
    pub read_only: bool,
}

/// Reads a mount table.
pub fn parse(table: &[u8]) -> Result<Vec<MountInfo>, Error> {
    table
        .split(|byte| *byte == b'\n')
        .enumerate()
        .filter(|(_, line)| !line.is_empty())
        .map(|(index, line)| {
            parse_line(line).map_err(|reason| Error::MountTable { line: index + 1, reason })
        })
        .collect()
}

fn parse_line(line: &[u8]) -> Result<MountInfo, &'static str> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mut next = || fields.next().ok_or("it ends too early");
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let _device = next()?;
    let _root = next()?;
    let mount_point = PathBuf::from(OsString::from_vec(unescape(next()?)));
    let options = next()?;
    let read_only = options.split(|byte| *byte == b',').any(|option| option == b"ro");
    while next()? != b"-" {}
    let fstype = String::from_utf8_lossy(&unescape(next()?)).into_owned();
    if !mount_point.is_absolute() {
        return Err("the mount point is not absolute");
    }
    Ok(MountInfo { id, parent, mount_point, fstype, read_only })
}

fn number(field: &[u8]) -> Result<u32, &'static str> {
    std::str::from_utf8(field).ok().and_then(|text| text.parse().ok()).ok_or("a number was wanted")
}

/// The kernel writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = |digit: &u8| digit.checked_sub(b'0').filter(|value| *value < 8).map(u32::from);
        match (first, tail) {
            (b'\\', [a, b, c, after @ ..]) => match (octal(a), octal(b), octal(c)) {
                (Some(a), Some(b), Some(c)) => {
                    bytes.push((a * 64 + b * 8 + c) as u8);
                    rest = after;
                }
                _ => {
                    bytes.push(*first);
                    rest = tail;
                }
            },
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The mounts a path can lead to, parents before what is mounted on them. A mount is out of reach
/// when another covers its mount point or a folder above it.
pub fn reachable(table: &[MountInfo]) -> Vec<&MountInfo> {
    let known = |id: u32| table.iter().any(|mount| mount.id == id);
    // The root mount: its parent is outside of what the reader sees. Its own parent id may also
    // be its id (the first mount of all).
    let mut pending: Vec<&MountInfo> =
        table.iter().filter(|mount| !known(mount.parent) || mount.parent == mount.id).collect();
    let mut found: Vec<&MountInfo> = Vec::new();
    let mut index = 0;
    // In a true table each mount comes up once; the bound is for one that is not.
    while index < pending.len() && index < 2 * table.len() {
        let mount = pending[index];
        index += 1;
        let children: Vec<&MountInfo> =
            table.iter().filter(|child| child.parent == mount.id && child.id != mount.id).collect();
        // A child on the very root of this mount hides all of it.
        if let Some(cover) = children.iter().find(|child| child.mount_point == mount.mount_point) {
            pending.push(cover);
            continue;
        }
        found.push(mount);
        let hidden = |path: &Path| {
            children
                .iter()
                .any(|other| other.mount_point != path && path.starts_with(&other.mount_point))
        };
        pending.extend(children.iter().filter(|child| !hidden(&child.mount_point)));
    }
    found.sort_by_key(|mount| mount.mount_point.components().count());
    found
}

/// The one of the reachable mounts that `path` lies on.
pub fn of<'a>(reachable: &[&'a MountInfo], path: &Path) -> Option<&'a MountInfo> {
    reachable.iter().rev().find(|mount| path.starts_with(&mount.mount_point)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(table: &str) -> Vec<(u32, String)> {
        reachable(&parse(table.as_bytes()).unwrap())
            .iter()
            .map(|mount| (mount.id, mount.mount_point.to_string_lossy().into_owned()))
            .collect()
    }

    #[test]
    fn covered_mounts_are_out_of_reach() {
        let table = "\
24 27 0:6 / /dev rw,relatime - devtmpfs devtmpfs rw
26 24 0:24 / /dev/pts rw - devpts devpts rw
27 1 254:0 / / rw,relatime shared:1 master:2 - ext4 /dev/vda rw
29 26 0:26 / /dev/pts rw - devpts devpts rw
40 27 8:1 / /data/inner ro - ext4 /dev/b rw
41 27 8:2 / /data rw - ext4 /dev/c rw
42 41 8:3 / /data/inner/deep rw - ext4 /dev/d rw
";
        let found = points(table);
        let ids: Vec<u32> = found.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, [27, 24, 41, 29, 42]);
    }

    #[test]
    fn escapes_and_options_are_read() {
        let mounts =
            parse(b"5 1 8:1 /a\\040b /mnt/a\\040b\\134\\011c ro,nosuid - fuse.x s rw\n").unwrap();
        assert_eq!(mounts[0].mount_point, Path::new("/mnt/a b\\\tc"));
        assert!(mounts[0].read_only);
        assert_eq!(mounts[0].fstype, "fuse.x");
    }

    #[test]
    fn wrong_lines_are_named_and_never_panic() {
        for line in ["", "x", "1 2 3", "1 2 3 / rel rw - ext4 a b", "1 2 3 / / rw ext4"] {
            let table = format!("27 1 254:0 / / rw - ext4 d rw\n{line}\n");
            match parse(table.as_bytes()) {
                Ok(mounts) => assert!(line.is_empty() && mounts.len() == 1),
                Err(Error::MountTable { line: at, .. }) => assert_eq!(at, 2),
                Err(other) => panic!("{other}"),
            }
        }
    }

    proptest::proptest! {
        #[test]
        fn any_table_is_read_or_refused(
            lines in proptest::collection::vec("[0-9]{1,2} [0-9]{1,2} 0:1 / (/[a-c]){0,3}/? rw - [a-z]{1,3} x y", 0..12),
            noise: Vec<u8>,
        ) {
            if let Ok(mounts) = parse(lines.join("\n").as_bytes()) {
                let found = reachable(&mounts);
                proptest::prop_assert!(found.len() <= 2 * mounts.len());
            }
            let _ = parse(&noise).map(|mounts| reachable(&mounts).len());
        }
    }

    #[test]
    fn a_cycle_ends() {
        points("1 0 0:1 / / rw - x x rw\n2 1 0:1 / / rw - x x rw\n1 2 0:1 / / rw - x x rw\n");
        points("1 2 0:1 / /a rw - x x rw\n2 1 0:1 / /b rw - x x rw\n3 3 0:1 / / rw - x x rw\n");
    }
}

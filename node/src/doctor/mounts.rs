//! What is mounted where, from /proc/self/mountinfo.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is seen.
    pub point: PathBuf,
    /// Type of file system.
    pub kind: String,
    /// Options of the file system, separated by commas.
    options: String,
}

impl Mount {
    /// Whether `option` is among the file system's options.
    pub fn has_option(&self, option: &str) -> bool {
        self.options.split(',').any(|known| known == option)
    }

    /// The mount `path` lies on: the last of those with the longest mount point.
    pub fn over<'a>(all: &'a [Mount], path: &Path) -> Option<&'a Mount> {
        all.iter()
            .filter(|mount| path.starts_with(&mount.point))
            .max_by_key(|mount| mount.point.components().count())
    }
}

/// All mounts this process sees, in the order they were made.
pub fn read() -> io::Result<Vec<Mount>> {
    let text = fs::read("/proc/self/mountinfo")?;
    Ok(text.split(|byte| *byte == b'\n').filter_map(parse).collect())
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda rw,errors=continue`
fn parse(line: &[u8]) -> Option<Mount> {
    let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |at: usize| Some(String::from_utf8_lossy(fields.get(at)?).into_owned());
    Some(Mount {
        point: OsString::from_vec(unescape(fields.get(4)?)).into(),
        kind: text(dash + 1)?,
        options: text(dash + 3)?,
    })
}

/// Blanks and backslashes in names are written as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|digits| first == b'\\' && digits[0] <= b'3');
        let code =
            octal.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &tail[3..] } else { tail };
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo_are_understood() {
        let mount =
            parse(br"36 35 98:0 / /mnt/a\040b\134 rw shared:1 - cgroup cgroup rw,cpu").unwrap();
        assert_eq!(mount.point, Path::new(r"/mnt/a b\"));
        assert_eq!(mount.kind, "cgroup");
        assert!(mount.has_option("cpu") && !mount.has_option("cp"));
        for line in ["", "36 35 98:0", "1 2 3:4 / / rw - ext4", r"1 2 3:4 / \0 rw - a b c"] {
            let _ = parse(line.as_bytes());
        }
    }

    #[test]
    fn the_longest_mount_point_wins_and_the_later_of_two() {
        let mount = |point: &str, kind: &str| Mount {
            point: point.into(),
            kind: kind.to_owned(),
            options: String::new(),
        };
        let all = [mount("/", "a"), mount("/home", "b"), mount("/", "c"), mount("/home", "d")];
        assert_eq!(Mount::over(&all, Path::new("/home/x")).unwrap().kind, "d");
        assert_eq!(Mount::over(&all, Path::new("/homely")).unwrap().kind, "c");
        assert!(Mount::over(&[], Path::new("/")).is_none());
    }
}

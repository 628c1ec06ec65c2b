//! Attributes as this node's kernel sees them: with its ids in place of the app's.

use std::time::UNIX_EPOCH;

use fuser::{FileAttr, INodeNo, TimeOrNow};
use rustix::io::Errno;

use super::convert::{file_type, set_time, system_time};
use crate::ids::IdMap;
use crate::proto::{Attr, AttrChange, MAX_IO};

/// How the app's ids appear on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owners {
    /// Users.
    pub uids: IdMap,
    /// Groups.
    pub gids: IdMap,
}

impl Owners {
    /// Ids are the same on both sides.
    pub fn identity() -> Self {
        Self { uids: IdMap::identity(), gids: IdMap::identity() }
    }

    /// Home's attributes for this kernel.
    pub(super) fn shown(&self, attr: &Attr) -> FileAttr {
        let (major, minor) = attr.rdev;
        FileAttr {
            ino: INodeNo(attr.ino),
            size: attr.size,
            blocks: attr.blocks,
            atime: system_time(attr.atime),
            mtime: system_time(attr.mtime),
            ctime: system_time(attr.ctime),
            crtime: UNIX_EPOCH,
            kind: file_type(attr.kind),
            perm: attr.perm,
            nlink: attr.nlink,
            uid: self.uids.outside(attr.uid),
            gid: self.gids.outside(attr.gid),
            rdev: (major & 0xfff) << 8 | (minor & 0xff) | (minor & 0xfff00) << 12,
            blksize: attr.block_size.clamp(512, MAX_IO),
            flags: 0,
        }
    }

    /// A change this kernel asks for, for home. An id the app cannot have means nothing there.
    pub(super) fn change(
        &self,
        mode: Option<u32>,
        (uid, gid): (Option<u32>, Option<u32>),
        size: Option<u64>,
        (atime, mtime): (Option<TimeOrNow>, Option<TimeOrNow>),
    ) -> Result<AttrChange, Errno> {
        let inside = |map: &IdMap, id: Option<u32>| {
            id.map(|id| map.inside(id).ok_or(Errno::INVAL)).transpose()
        };
        Ok(AttrChange {
            size,
            perm: mode.map(|mode| (mode & 0o7777) as u16),
            uid: inside(&self.uids, uid)?,
            gid: inside(&self.gids, gid)?,
            atime: atime.map(set_time),
            mtime: mtime.map(set_time),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Extent, OVERFLOW};
    use crate::proto::{FileKind, Timestamp};

    #[test]
    fn ids_are_changed_both_ways_and_strange_ones_refused() {
        let map = IdMap(vec![Extent { inside: 1000, outside: 701_000, count: 1 }]);
        let owners = Owners { uids: map.clone(), gids: map };
        let time = Timestamp::default();
        let attr = Attr {
            ino: 7,
            size: 5,
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
            kind: FileKind::CharDevice,
            perm: 0o640,
            nlink: 1,
            uid: 1000,
            gid: 27,
            rdev: (8, 0x12345),
            block_size: 0,
            system: false,
        };
        let shown = owners.shown(&attr);
        assert_eq!((shown.uid, shown.gid, shown.blksize), (701_000, OVERFLOW, 512));
        assert_eq!(shown.rdev, 0x1230_0845);
        let change = |uid, gid| owners.change(Some(0o100_644), (uid, gid), None, (None, None));
        let changed = change(Some(701_000), None).unwrap();
        assert_eq!((changed.uid, changed.gid, changed.perm), (Some(1000), None, Some(0o644)));
        assert_eq!(change(None, Some(1000)), Err(Errno::INVAL));
    }
}

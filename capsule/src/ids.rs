//! The private id range of a capsule: which ids inside are which outside.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use phantom_model::Credentials;
use serde::{Deserialize, Serialize};

use crate::Error;

/// How many ids each capsule owns outside.
pub const ID_RANGE: u32 = 131_072;
/// Inside ids below this are mapped in one piece.
pub const DIRECT_IDS: u32 = 65_536;
/// Lowest base of a range.
pub const LOWEST_BASE: u32 = 0x7001_0000;
/// Highest base of a range.
pub const HIGHEST_BASE: u32 = 0x7FFE_0000 - ID_RANGE;
/// The kernel takes 340 extents; a margin is left for those of a restore.
const MAX_EXTRA: usize = 300;

/// One line of a `uid_map` or `gid_map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdExtent {
    /// First id inside the capsule.
    pub inside: u32,
    /// The id it has outside.
    pub outside: u32,
    /// How many follow one another.
    pub count: u32,
}

/// The maps of a capsule's user namespace: inside 0..65536 stand at the base, and each larger id
/// of the user has an extent of its own after them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// First outside id of the range.
    pub base: u32,
    /// User ids.
    pub uids: Vec<IdExtent>,
    /// Group ids.
    pub gids: Vec<IdExtent>,
}

impl IdMaps {
    /// The maps for `user` in the range of [`ID_RANGE`] ids from `base`.
    pub fn new(base: u32, user: &Credentials) -> Result<Self, Error> {
        if !(LOWEST_BASE..=HIGHEST_BASE).contains(&base) {
            return Err(Error::IdBase { base, lowest: LOWEST_BASE, highest: HIGHEST_BASE });
        }
        let groups = || user.groups.iter().copied().chain([user.gid]);
        // -1 means "leave as it is" to the kernel, so it names nobody.
        if user.uid == u32::MAX {
            return Err(Error::Id { kind: "user", id: user.uid });
        }
        if let Some(id) = groups().find(|id| *id == u32::MAX) {
            return Err(Error::Id { kind: "group", id });
        }
        Ok(Self {
            base,
            uids: extents(base, [user.uid].into_iter())?,
            gids: extents(base, groups())?,
        })
    }

    /// The outside user id of an inside one.
    pub fn uid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.uids, inside)
    }

    /// The outside group id of an inside one.
    pub fn gid_outside(&self, inside: u32) -> Option<u32> {
        outside(&self.gids, inside)
    }

    /// The same maps in another range.
    pub fn rebase(&self, base: u32) -> Result<Self, Error> {
        if !(LOWEST_BASE..=HIGHEST_BASE).contains(&base) {
            return Err(Error::IdBase { base, lowest: LOWEST_BASE, highest: HIGHEST_BASE });
        }
        let shift = |extent: &IdExtent| IdExtent {
            outside: base + (extent.outside - self.base),
            ..*extent
        };
        Ok(Self {
            base,
            uids: self.uids.iter().map(shift).collect(),
            gids: self.gids.iter().map(shift).collect(),
        })
    }
}

fn extents(base: u32, ids: impl Iterator<Item = u32>) -> Result<Vec<IdExtent>, Error> {
    let large: BTreeSet<u32> = ids.filter(|id| *id >= DIRECT_IDS).collect();
    if large.len() > MAX_EXTRA {
        return Err(Error::TooManyIds { count: large.len(), limit: MAX_EXTRA });
    }
    let direct = IdExtent { inside: 0, outside: base, count: DIRECT_IDS };
    let extra = (base + DIRECT_IDS..).zip(large).map(|(outside, inside)| IdExtent {
        inside,
        outside,
        count: 1,
    });
    Ok([direct].into_iter().chain(extra).collect())
}

fn outside(map: &[IdExtent], inside: u32) -> Option<u32> {
    map.iter().find_map(|extent| {
        let offset = inside.checked_sub(extent.inside)?;
        (offset < extent.count).then(|| extent.outside + offset)
    })
}

/// The text the kernel reads from `uid_map` and `gid_map`.
pub(crate) fn map_text(map: &[IdExtent]) -> String {
    map.iter().fold(String::new(), |mut text, extent| {
        let _ = writeln!(text, "{} {} {}", extent.inside, extent.outside, extent.count);
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(uid: u32, gid: u32, groups: &[u32]) -> Credentials {
        Credentials {
            user: "u".into(),
            uid,
            gid,
            groups: groups.to_vec(),
            group_names: Vec::new(),
            home_dir: "/home/u".into(),
        }
    }

    #[test]
    fn small_ids_stand_at_the_base() {
        let maps = IdMaps::new(LOWEST_BASE, &user(1000, 1000, &[27, 65_535])).unwrap();
        assert_eq!(map_text(&maps.uids), format!("0 {LOWEST_BASE} 65536\n"));
        assert_eq!(maps.uid_outside(0), Some(LOWEST_BASE));
        assert_eq!(maps.gid_outside(65_535), Some(LOWEST_BASE + 65_535));
        assert_eq!(maps.uid_outside(65_536), None);
    }

    #[test]
    fn large_ids_get_extents_of_their_own() {
        let base = LOWEST_BASE + ID_RANGE;
        let maps = IdMaps::new(base, &user(70_000, 4_000_000_000, &[80_000, 80_000, 5])).unwrap();
        assert_eq!(maps.uid_outside(70_000), Some(base + 65_536));
        assert_eq!(maps.gid_outside(80_000), Some(base + 65_536));
        assert_eq!(maps.gid_outside(4_000_000_000), Some(base + 65_537));
        let moved = maps.rebase(LOWEST_BASE).unwrap();
        assert_eq!(moved.gid_outside(4_000_000_000), Some(LOWEST_BASE + 65_537));
    }

    #[test]
    fn impossible_ids_and_ranges_are_refused() {
        assert!(IdMaps::new(1000, &user(1, 1, &[])).is_err());
        assert!(IdMaps::new(0x7FFE_0000, &user(1, 1, &[])).is_err());
        assert!(IdMaps::new(LOWEST_BASE, &user(u32::MAX, 1, &[])).is_err());
        assert!(IdMaps::new(LOWEST_BASE, &user(1, 1, &[u32::MAX])).is_err());
        let many: Vec<u32> = (100_000..100_400).collect();
        assert!(IdMaps::new(LOWEST_BASE, &user(1, 1, &many)).is_err());
    }
}

//! User and group ids on both sides of a user namespace.

/// The id shown for one that has no counterpart, as the kernel does it.
pub const OVERFLOW: u32 = 65_534;

/// `count` ids from `inside` on are `outside` and on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// First id as the app sees it.
    pub inside: u32,
    /// First id as this node's kernel sees it.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// How the app's ids appear on this node; one map for users, one for groups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMap(pub Vec<Extent>);

impl IdMap {
    /// Ids are the same on both sides.
    pub fn identity() -> Self {
        Self(vec![Extent { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// The outside id of an inside one; [`OVERFLOW`] where there is none.
    pub fn outside(&self, inside: u32) -> u32 {
        let map = |e: &Extent| {
            let step = inside.checked_sub(e.inside).filter(|step| *step < e.count)?;
            e.outside.checked_add(step)
        };
        self.0.iter().find_map(map).unwrap_or(OVERFLOW)
    }

    /// The inside id of an outside one.
    pub fn inside(&self, outside: u32) -> Option<u32> {
        self.0.iter().find_map(|e| {
            let step = outside.checked_sub(e.outside).filter(|step| *step < e.count)?;
            e.inside.checked_add(step)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_map_both_ways() {
        let map = IdMap(vec![
            Extent { inside: 0, outside: 700_000, count: 65_536 },
            Extent { inside: 200_000, outside: 765_536, count: 1 },
        ]);
        for (inside, outside) in [(0, 700_000), (1000, 701_000), (200_000, 765_536)] {
            assert_eq!(map.outside(inside), outside);
            assert_eq!(map.inside(outside), Some(inside));
        }
        assert_eq!(map.outside(200_001), OVERFLOW);
        assert_eq!(map.inside(1000), None);
        assert_eq!(map.inside(u32::MAX), None);
        assert_eq!(IdMap::identity().outside(77), 77);
    }
}

//! Which sub-grids form a region together, where no admin has said so: those that are near.
//!
//! What holds:
//! - The same sub-grids at the same places give the same regions, in whatever order they are told,
//!   and grouping them again changes nothing.
//! - A sub-grid that has a region leaves it only when another is nearer by a margin at several looks
//!   in a row, or when its own is out of reach, so nobody flaps between two that are equally far.

use std::collections::BTreeMap;

use phantom_model::SubgridId;

use super::RegionId;
use crate::machine::coordinates::Coordinate;

/// How far from a region's middle a sub-grid may be to join it, in milliseconds.
pub const JOINS: f64 = 25.0;
/// How far it may be to stay.
const STAYS: f64 = 1.5 * JOINS;
/// Another region has to be nearer by this part and by so many milliseconds.
const NEARER: f64 = 0.7;
const NEARER_MS: f64 = 3.0;
/// At so many looks in a row.
const LOOKS: u8 = 3;
/// So many sub-grids are grouped; those with the highest ids are left out.
const MAX_SITES: usize = 4096;

/// A sub-grid to be grouped.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Site {
    /// Where its super-peer is.
    pub coordinate: Coordinate,
    /// The region that an admin has named for it.
    pub named: Option<RegionId>,
}

/// Groups sub-grids, look by look.
#[derive(Debug, Default)]
pub struct Grouping {
    regions: BTreeMap<SubgridId, RegionId>,
    /// Who would rather be in which other region, or in none of these, and at how many looks in a row.
    wishes: BTreeMap<SubgridId, (Option<RegionId>, u8)>,
}

/// A region as it is at one look.
struct Middle {
    at: Coordinate,
    members: usize,
}

impl Grouping {
    /// Goes on from regions that are known, as a new region-peer does.
    pub fn new(regions: BTreeMap<SubgridId, RegionId>) -> Self {
        Self { regions, wishes: BTreeMap::new() }
    }

    /// Which sub-grid is in which region.
    pub fn regions(&self) -> &BTreeMap<SubgridId, RegionId> {
        &self.regions
    }

    /// Looks at all sub-grids and says which regions have changed, with what they were.
    pub fn handle_look(
        &mut self,
        sites: &BTreeMap<SubgridId, Site>,
    ) -> Vec<(SubgridId, Option<RegionId>)> {
        let before = std::mem::take(&mut self.regions);
        let sites = || sites.iter().take(MAX_SITES);
        for (subgrid, site) in sites() {
            if let Some(region) = site.named.or_else(|| before.get(subgrid).copied()) {
                self.regions.insert(*subgrid, region);
            }
        }
        self.wishes.retain(|subgrid, _| self.regions.contains_key(subgrid));
        let mut middles = self.middles(sites());
        for (subgrid, site) in sites().filter(|(_, site)| site.named.is_none()) {
            let region = self.regions.get(subgrid).copied();
            // One after the other, so that two do not pass each other on the way.
            if region.is_some_and(|region| self.reconsider(*subgrid, site, region, &middles)) {
                middles = self.middles(sites());
            }
        }
        for (subgrid, site) in sites() {
            if self.regions.contains_key(subgrid) {
                continue;
            }
            // Those before it may have founded one.
            let middles = self.middles(sites());
            let near = nearest(site, &middles, |_, _| true).filter(|(_, far)| *far <= JOINS);
            let region = near.map_or_else(|| founded(*subgrid, &middles), |(region, _)| region);
            self.regions.insert(*subgrid, region);
        }
        let changed = self.regions.iter().filter(|(subgrid, now)| before.get(subgrid) != Some(now));
        changed.map(|(subgrid, _)| (*subgrid, before.get(subgrid).copied())).collect()
    }

    /// Whether it has left its region.
    fn reconsider(
        &mut self,
        subgrid: SubgridId,
        site: &Site,
        region: RegionId,
        middles: &BTreeMap<RegionId, Middle>,
    ) -> bool {
        let own = middles.get(&region);
        let here = own.map_or(f64::INFINITY, |it| it.at.distance(&site.coordinate));
        let alone = own.is_none_or(|it| it.members == 1);
        let better = if alone {
            // Of two that are alone one goes to the other.
            nearest(site, middles, |id, it| id != region && (it.members > 1 || id < region))
                .filter(|(_, far)| *far <= JOINS)
        } else {
            nearest(site, middles, |id, _| id != region).filter(|(_, far)| {
                *far <= JOINS && *far <= here * NEARER && *far + NEARER_MS <= here
            })
        };
        let wish = match better {
            Some((other, _)) => Some(other),
            None if here > STAYS && !alone => None,
            None => {
                self.wishes.remove(&subgrid);
                return false;
            }
        };
        let looks = match self.wishes.get(&subgrid) {
            Some((same, looks)) if *same == wish => looks + 1,
            _ => 1,
        };
        if looks < LOOKS {
            self.wishes.insert(subgrid, (wish, looks));
            return false;
        }
        self.wishes.remove(&subgrid);
        match wish {
            Some(other) => self.regions.insert(subgrid, other),
            None => self.regions.remove(&subgrid),
        };
        true
    }

    fn middles<'a>(
        &self,
        sites: impl Iterator<Item = (&'a SubgridId, &'a Site)>,
    ) -> BTreeMap<RegionId, Middle> {
        let mut members: BTreeMap<RegionId, Vec<&Coordinate>> = BTreeMap::new();
        for (subgrid, site) in sites {
            if let Some(region) = self.regions.get(subgrid) {
                members.entry(*region).or_default().push(&site.coordinate);
            }
        }
        let middle =
            |of: Vec<&Coordinate>| Some(Middle { members: of.len(), at: Coordinate::middle(of)? });
        members.into_iter().filter_map(|(region, of)| Some((region, middle(of)?))).collect()
    }
}

/// The nearest region of which `wanted` is true; of two the lower id.
fn nearest(
    site: &Site,
    middles: &BTreeMap<RegionId, Middle>,
    wanted: impl Fn(RegionId, &Middle) -> bool,
) -> Option<(RegionId, f64)> {
    let wanted = middles.iter().filter(|(id, middle)| wanted(**id, middle));
    let far = wanted.map(|(id, middle)| (*id, middle.at.distance(&site.coordinate)));
    far.min_by(|one, other| one.1.total_cmp(&other.1).then(one.0.cmp(&other.0)))
}

/// The id of a region that a sub-grid founds; the one it has founded before may be others' by now.
fn founded(subgrid: SubgridId, middles: &BTreeMap<RegionId, Middle>) -> RegionId {
    let mut id = RegionId::around(subgrid);
    while middles.contains_key(&id) {
        id = RegionId::named(&id.to_string());
    }
    id
}

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};

use super::{Row, SILENT, Seat};
use crate::machine::group::Standing;

/// What the region-peer says of who lives counts for so long.
const TOLD: Duration = Duration::from_secs(15);
/// So many are known at most: before there is a charter anybody may be of the region.
const MAX_SEATS: usize = 4096;

/// Who speaks for the other sites.
#[derive(Debug, Default)]
pub struct Seats {
    of: BTreeMap<SubgridId, Known>,
    is_news: bool,
}

#[derive(Debug)]
struct Known {
    seat: Seat,
    /// When it was last heard itself.
    heard: Option<Duration>,
    /// What the region-peer says of it, and when it did.
    told: Option<(bool, Duration)>,
    /// Since when it lives, or does not.
    since: Option<(bool, Duration)>,
}

impl Known {
    fn is_alive(&self, now: Duration) -> bool {
        self.heard.is_some_and(|heard| heard + SILENT > now)
            || self.told.is_some_and(|(alive, at)| alive && at + TOLD > now)
    }
}

impl Seats {
    /// Somebody else says that this seat is taken.
    pub fn hear_of(&mut self, seat: Seat) {
        let known = self.of.get(&seat.subgrid);
        let room = known.is_some() || self.of.len() < MAX_SEATS;
        if room && known.is_none_or(|known| known.seat.mandate < seat.mandate) {
            self.take(seat);
        }
    }

    fn take(&mut self, seat: Seat) {
        self.is_news = true;
        let new = Known { seat, heard: None, told: None, since: None };
        let subgrid = new.seat.subgrid;
        // The site is the same: it lives on.
        let before = self.of.insert(subgrid, new);
        if let (Some(before), Some(new)) = (before, self.of.get_mut(&subgrid)) {
            new.since = before.since;
        }
    }

    /// The node itself says so, which has proven to be of the site. Whether it speaks for it: a later
    /// mandate may be known, of one that lives. One that is silent holds no seat: a mandate that was
    /// made up would never be outdone.
    pub fn hear_from(&mut self, seat: Seat, now: Duration) -> bool {
        self.hear_of(seat.clone());
        let is_silent = |known: &Known| known.seat.node != seat.node && !known.is_alive(now);
        if self.of.get(&seat.subgrid).is_some_and(is_silent) {
            self.take(seat.clone());
        }
        let Some(known) = self.of.get_mut(&seat.subgrid) else { return false };
        if known.seat.node != seat.node || known.seat.mandate > seat.mandate {
            return false;
        }
        self.is_news |= known.seat.reach != seat.reach;
        known.seat = seat;
        known.heard = Some(now);
        true
    }

    /// The region-peer says so.
    pub fn told(&mut self, row: Row, now: Duration) {
        let (subgrid, mandate) = (row.seat.subgrid, row.seat.mandate);
        self.hear_of(row.seat);
        if let Some(known) = self.of.get_mut(&subgrid)
            && known.seat.mandate == mandate
        {
            known.told = Some((row.alive, now));
        }
    }

    /// The region-peer says that what it has said of others is still so.
    pub fn told_the_same(&mut self, now: Duration) {
        for (_, at) in self.of.values_mut().filter_map(|known| known.told.as_mut()) {
            *at = now;
        }
    }

    /// Who speaks for the site has just been heard.
    pub fn heard(&mut self, subgrid: SubgridId, now: Duration) {
        if let Some(known) = self.of.get_mut(&subgrid) {
            known.heard = Some(now);
        }
    }

    /// Whether this node speaks for the site, as far as is known.
    pub fn speaks(&self, subgrid: SubgridId, node: NodeId) -> bool {
        self.of.get(&subgrid).is_some_and(|known| known.seat.node == node)
    }

    /// Whether who speaks for the site was heard itself, lately.
    pub fn is_heard(&self, subgrid: SubgridId, now: Duration) -> bool {
        let heard = self.of.get(&subgrid).and_then(|known| known.heard);
        heard.is_some_and(|heard| heard + SILENT > now)
    }

    pub fn is_alive(&self, subgrid: SubgridId, now: Duration) -> bool {
        self.of.get(&subgrid).is_some_and(|known| known.is_alive(now))
    }

    /// Of a site, whether anything is known of it or not.
    pub fn standing(&mut self, subgrid: SubgridId, now: Duration) -> Standing {
        let Some(known) = self.of.get_mut(&subgrid) else {
            return Standing { alive: false, since: now, availability: 0 };
        };
        let alive = known.is_alive(now);
        let since = match known.since {
            Some((was, since)) if was == alive => since,
            _ => now,
        };
        known.since = Some((alive, since));
        Standing { alive, since, availability: known.seat.availability }
    }

    /// Only these sites are of the region.
    pub fn retain(&mut self, sites: &BTreeSet<SubgridId>) {
        self.of.retain(|subgrid, _| sites.contains(subgrid));
    }

    pub fn get(&self, subgrid: SubgridId) -> Option<&Seat> {
        self.of.get(&subgrid).map(|known| &known.seat)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Seat> {
        self.of.values().map(|known| &known.seat)
    }

    pub fn rows(&self, now: Duration) -> impl Iterator<Item = Row> {
        let known = self.of.values();
        known.map(move |known| Row { seat: known.seat.clone(), alive: known.is_alive(now) })
    }

    /// Whether seats or their addresses have changed since it was last asked.
    pub fn is_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }
}

//! Other regions, as a region-peer knows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::mpsc;

use super::zone::{Found, Search};
use super::{Abroad, Charter, Reach, RegionConfig};
use crate::dns::RegionCache;
use crate::machine::region::catalogue::{Catalogue, REGION_REFRESH, RegionReport};
use crate::uri::GridUri;

/// How often it shows its charter with it.
const SHOW: Duration = Duration::from_secs(60);
/// Who has shown a charter is believed for so long.
const SHOWN: Duration = Duration::from_secs(150);
/// Who was not heard for so long is looked for.
const SILENT: Duration = Duration::from_secs(30);
/// How often.
const SEARCH: Duration = Duration::from_secs(30);
/// So many nodes that speak for other regions are remembered.
const MAX_SHOWN: usize = 256;

/// One of them.
struct Neighbour {
    key: [u8; 32],
    /// The charter that counts of those that were shown.
    charter: Option<Charter>,
    cache: RegionCache,
    reach: Option<Reach>,
    heard: Option<Duration>,
    search: Option<Search>,
    next_search: Duration,
    next_report: Duration,
    next_show: Duration,
}

/// All that the charter names.
pub struct Neighbours {
    of: BTreeMap<GridUri, Neighbour>,
    /// Nodes that have shown the charter of such a region, and when.
    shown: BTreeMap<NodeId, (GridUri, SubgridId, Duration)>,
    found: mpsc::Sender<(GridUri, Result<Found, String>)>,
}

/// What is to be told whom.
pub struct Telling {
    /// The other region-peer.
    pub to: Reach,
    /// Whether the charter goes with it.
    pub shows: bool,
}

impl Neighbours {
    /// None yet; who is found in the DNS is told to `found`.
    pub fn new(found: mpsc::Sender<(GridUri, Result<Found, String>)>) -> Self {
        Self { of: BTreeMap::new(), shown: BTreeMap::new(), found }
    }

    /// These the charter names.
    pub fn handle_charter(&mut self, peers: &[(GridUri, [u8; 32])], now: Duration) {
        self.of.retain(|uri, known| peers.contains(&(uri.clone(), known.key)));
        for (uri, key) in peers {
            self.of.entry(uri.clone()).or_insert_with(|| {
                let mut cache = RegionCache::default();
                // There is room for one.
                let _ = cache.pin(uri, *key);
                Neighbour {
                    key: *key,
                    charter: None,
                    cache,
                    reach: None,
                    heard: None,
                    search: None,
                    next_search: now,
                    next_report: now,
                    next_show: now,
                }
            });
        }
        let of = &self.of;
        self.shown.retain(|_, (uri, ..)| of.contains_key(uri));
    }

    /// The DNS has told who is there, or not.
    pub fn handle_found(
        &mut self,
        uri: &GridUri,
        found: Result<Found, String>,
        abroad: &dyn Abroad,
    ) {
        let Some(known) = self.of.get_mut(uri) else { return };
        match found {
            Ok(found) => {
                let addrs = abroad.written(&found.addresses);
                let node = found.current.entry.node();
                known.reach = Some(Reach { node, subgrid: None, addrs });
                (known.next_report, known.next_show) = (Duration::ZERO, Duration::ZERO);
            }
            Err(error) => tracing::debug!(region = %uri, error, "no region-peer is found"),
        }
    }

    /// A node of `subgrid` says that it answers for a region; whether it has shown its charter is told,
    /// and then its report counts.
    pub fn handle_report(
        &mut self,
        from: Reach,
        report: &RegionReport,
        catalogue: &mut Catalogue,
        now: Duration,
    ) -> bool {
        self.shown.retain(|_, (.., at)| *at + SHOWN > now);
        let Some((uri, ..)) = self.shown.get(&from.node) else { return false };
        let Some(known) = self.of.get_mut(uri) else { return false };
        if report.region != crate::machine::region::RegionId::named(uri.name())
            || !catalogue.handle_region(from.node, report, now)
        {
            return false;
        }
        // Of who was found by its name the addresses are known.
        if known.reach.as_ref().is_none_or(|reach| reach.node != from.node) {
            known.reach = Some(from);
        }
        known.heard = Some(now);
        true
    }

    /// A node of `subgrid` shows a charter. One that another `replaces` proves nothing: who was put out
    /// has it still.
    pub fn handle_shown(
        &mut self,
        node: NodeId,
        subgrid: SubgridId,
        charter: Charter,
        replaces: impl Fn(&Charter, &Charter) -> bool,
        now: Duration,
    ) {
        let Some(known) = self.of.get_mut(&charter.uri) else { return };
        if !charter.is_under(known.key) {
            return;
        }
        if known.charter.as_ref().is_none_or(|newest| replaces(&charter, newest)) {
            let (uri, sites) = (&charter.uri, &charter.sites);
            self.shown.retain(|_, (of, subgrid, _)| of != uri || sites.contains_key(subgrid));
            known.charter = Some(charter.clone());
        }
        let counts = known.charter.as_ref().is_some_and(|newest| newest.bytes == charter.bytes);
        let room = self.shown.len() < MAX_SHOWN || self.shown.contains_key(&node);
        if counts && room && charter.sites.contains_key(&subgrid) {
            self.shown.insert(node, (charter.uri, subgrid, now));
        }
    }

    /// Whom to tell what now.
    pub fn due(&mut self, now: Duration) -> Vec<Telling> {
        let mut due = Vec::new();
        for known in self.of.values_mut() {
            let Some(to) = known.reach.clone().filter(|_| known.next_report <= now) else {
                continue;
            };
            known.next_report = now + REGION_REFRESH;
            let shows = known.next_show <= now;
            if shows {
                known.next_show = now + SHOW;
            }
            due.push(Telling { to, shows });
        }
        due
    }

    /// Looks for those that are silent.
    pub fn search(&mut self, config: &RegionConfig, abroad: &Arc<dyn Abroad>, now: Duration) {
        for (uri, known) in &mut self.of {
            let silent = known.heard.is_none_or(|heard| heard + SILENT <= now);
            let busy = known.search.as_ref().is_some_and(|search| !search.is_over());
            if !silent || busy || known.next_search > now {
                continue;
            }
            known.next_search = now + SEARCH;
            known.search = Some(Search::begin(
                config.clone(),
                uri.clone(),
                known.cache.clone(),
                abroad.clone(),
                uri.clone(),
                self.found.clone(),
            ));
        }
    }

    /// Where the node is that speaks for one of them.
    pub fn reach(&self, node: NodeId) -> Option<Reach> {
        let mut known = self.of.values().filter_map(|known| known.reach.as_ref());
        known.find(|reach| reach.node == node).cloned()
    }

    /// All, and whether they were heard lately.
    pub fn view(&self, now: Duration) -> Vec<(GridUri, bool)> {
        let lives = |known: &Neighbour| known.heard.is_some_and(|heard| heard + SILENT > now);
        self.of.iter().map(|(uri, known)| (uri.clone(), lives(known))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::region::RegionId;
    use crate::machine::region::power::Summary;

    #[test]
    fn who_was_put_out_of_a_region_speaks_for_it_no_more() {
        let uri: GridUri = "grid://campus.example.org".parse().unwrap();
        let (key, now) = ([1; 32], Duration::from_secs(100));
        let [home, out] = [1, 2].map(|id| SubgridId([id; 32]));
        let charter = |version, sites: &[SubgridId]| Charter {
            uri: uri.clone(),
            keys: vec![key],
            proofs: Vec::new(),
            version,
            sites: sites.iter().map(|site| (*site, site.short())).collect(),
            peers: Vec::new(),
            bytes: vec![version as u8],
        };
        let replaces = |new: &Charter, known: &Charter| new.version > known.version;
        let (tell, _told) = mpsc::channel(1);
        let mut neighbours = Neighbours::new(tell);
        neighbours.handle_charter(&[(uri.clone(), key)], now);
        let mut catalogue = Catalogue::new(now);
        let report =
            RegionReport { region: RegionId::named(uri.name()), summary: Summary::default() };
        let [peer, former] = [1, 2].map(|id| NodeId([id; 32]));
        let reach = |node| Reach { node, subgrid: None, addrs: Vec::new() };
        let mut counts = |neighbours: &mut Neighbours, node| {
            neighbours.handle_report(reach(node), &report, &mut catalogue, now)
        };
        assert!(!counts(&mut neighbours, former), "nothing was shown");
        neighbours.handle_shown(former, out, charter(7, &[home, out]), replaces, now);
        assert!(counts(&mut neighbours, former), "it is a site");
        neighbours.handle_shown(peer, home, charter(8, &[home]), replaces, now);
        assert!(counts(&mut neighbours, peer) && !counts(&mut neighbours, former));
        neighbours.handle_shown(former, out, charter(7, &[home, out]), replaces, now);
        assert!(!counts(&mut neighbours, former), "an old charter");
        let foreign = Charter { keys: vec![[9; 32]], ..charter(9, &[home, out]) };
        neighbours.handle_shown(former, out, foreign, replaces, now);
        assert!(!counts(&mut neighbours, former), "another key");
        assert!(counts(&mut neighbours, peer));
    }
}

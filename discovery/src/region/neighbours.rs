//! Other regions, as a region-peer knows them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::mpsc;

use super::zone::{Found, Search};
use super::{Abroad, Charter, Reach, RegionConfig};
use crate::dns::RegionCache;
use crate::machine::region::catalogue::{Catalogue, RegionReport};
use crate::uri::GridUri;

/// How often a region-peer tells another what its region has.
const REPORT: Duration = Duration::from_secs(10);
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
    shown: BTreeMap<NodeId, (GridUri, Duration)>,
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
        self.shown.retain(|_, (uri, _)| of.contains_key(uri));
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

    /// A node of `subgrid` says that it answers for a region and shows its charter, or has shown it
    /// before; whether that is so is told, and then its report counts.
    pub fn handle_report(
        &mut self,
        from: Reach,
        subgrid: SubgridId,
        report: &RegionReport,
        charter: Option<Charter>,
        catalogue: &mut Catalogue,
        now: Duration,
    ) -> bool {
        self.shown.retain(|_, (_, at)| *at + SHOWN > now);
        if let Some(charter) = charter {
            let known = self.of.get(&charter.uri).is_some_and(|known| charter.is_under(known.key));
            let room = self.shown.len() < MAX_SHOWN || self.shown.contains_key(&from.node);
            if known && room && charter.sites.contains_key(&subgrid) {
                self.shown.insert(from.node, (charter.uri, now));
            }
        }
        let Some((uri, _)) = self.shown.get(&from.node) else { return false };
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

    /// Whom to tell what now.
    pub fn due(&mut self, now: Duration) -> Vec<Telling> {
        let mut due = Vec::new();
        for known in self.of.values_mut() {
            let Some(to) = known.reach.clone().filter(|_| known.next_report <= now) else {
                continue;
            };
            known.next_report = now + REPORT;
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

//! The members that are up, as queries look at them.
//!
//! What holds:
//! - A listing is made when it is asked for and something has changed since, and then only the
//!   descriptions that are others now are read anew.
//! - Queries find members that are up: `State` is "up" in all that is listed. Who is away is in the
//!   registry, and in no listing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use phantom_classad::{Ad, Value};
use phantom_erasure::Digest;
use phantom_model::NodeId;

use crate::machine::query::Directory;
use crate::machine::region::power::Summary;
use crate::machine::registry::Registration;

/// A new super-peer waits so long at most for members that are up and have not told it what they are.
const SETTLES: Duration = Duration::from_secs(3);

/// Members of virtual organisations, by name.
pub type Vos = BTreeMap<String, BTreeSet<NodeId>>;

/// Who is up, and what they say of themselves.
#[derive(Debug, Default)]
pub struct Listing {
    members: Vec<(NodeId, Arc<Ad>)>,
    vos: Arc<Vos>,
    whole: bool,
    summary: OnceLock<Summary>,
}

impl Listing {
    /// Of these.
    #[cfg(test)]
    pub fn of(members: Vec<(NodeId, Ad)>, whole: bool) -> Self {
        let members = members.into_iter().map(|(node, ad)| (node, Arc::new(ad))).collect();
        Self { members, whole, ..Self::default() }
    }

    /// Who is in a virtual organisation; none when it is not known.
    fn members_of(&self, vo: &str) -> Option<&BTreeSet<NodeId>> {
        self.vos.get(vo)
    }

    /// What they have together.
    pub fn summary(&self) -> &Summary {
        let ads = || self.members.iter().map(|(node, ad)| (*node, &**ad));
        self.summary.get_or_init(|| Summary::of(ads()))
    }
}

impl Directory for Listing {
    fn ads<'a>(&'a self, vo: Option<&str>) -> Box<dyn Iterator<Item = (NodeId, &'a Ad)> + 'a> {
        let all = self.members.iter().map(|(node, ad)| (*node, &**ad));
        match vo.map(|vo| self.members_of(vo)) {
            None => Box::new(all),
            Some(Some(of)) => Box::new(all.filter(|(node, _)| of.contains(node))),
            Some(None) => Box::new(std::iter::empty()),
        }
    }

    fn is_whole(&self) -> bool {
        self.whole
    }
}

/// Makes listings of the registry of a super-peer.
#[derive(Debug, Default)]
pub struct Listings {
    ads: BTreeMap<NodeId, (Digest, Arc<Ad>)>,
    up: BTreeSet<NodeId>,
    vos: Arc<Vos>,
    /// Since when there is this registry.
    since: Duration,
    /// The last one, and of which revision of the registry.
    made: Option<(u64, Arc<Listing>)>,
}

impl Listings {
    /// There is another registry from now on, or none.
    pub fn handle_registry(&mut self, now: Duration) {
        self.ads.clear();
        self.made = None;
        self.since = now;
    }

    /// Who is up now, this node among them.
    pub fn handle_up(&mut self, up: BTreeSet<NodeId>) {
        if up != self.up {
            self.up = up;
            self.made = None;
        }
    }

    /// Which virtual organisations there are now.
    pub fn handle_vos(&mut self, vos: Vos) {
        self.vos = Arc::new(vos);
        self.made = None;
    }

    /// What is registered now: `entries` are of this `revision` of the registry.
    pub fn listing<'a>(
        &mut self,
        revision: u64,
        entries: impl Iterator<Item = Registration<'a>>,
        now: Duration,
    ) -> Arc<Listing> {
        let settled = now >= self.since + SETTLES;
        if let Some((of, made)) = &self.made
            && *of == revision
            && (made.whole || !settled)
        {
            return made.clone();
        }
        let mut before = std::mem::take(&mut self.ads);
        for entry in entries {
            let known = before.remove(&entry.member).filter(|(digest, _)| *digest == entry.digest);
            let read = || (entry.digest, Arc::new(ad(&entry)));
            self.ads.insert(entry.member, known.unwrap_or_else(read));
        }
        let up = self.ads.iter().filter(|(node, _)| self.up.contains(node));
        let members: Vec<_> = up.map(|(node, (_, ad))| (*node, ad.clone())).collect();
        let whole = settled || members.len() == self.up.len();
        let vos = self.vos.clone();
        let listing = Arc::new(Listing { members, vos, whole, summary: OnceLock::new() });
        self.made = Some((revision, listing.clone()));
        listing
    }
}

fn ad(entry: &Registration<'_>) -> Ad {
    let mut ad = entry.description.attributes.ad();
    ad.insert("State", Value::from("up"));
    ad
}

#[cfg(test)]
mod tests;

//! How a region-peer hears of a sub-grid's power: the whole once, then what changes, and now and then
//! that nothing has.
//!
//! What holds:
//! - While nothing changes a sub-grid sends one small report per [`REFRESH`], at a time of its own.
//! - Reports of changes are at least [`GAP`] apart, and one that is not acknowledged is sent again
//!   with growing pauses, for as long as there is a region-peer.

use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

use super::power::{Difference, Summary};
use crate::machine::Mandate;
use crate::machine::coordinates::Coordinate;

/// How often a sub-grid reports when nothing changes, give or take a fifth.
pub const REFRESH: Duration = Duration::from_secs(10);
/// By which part of it a pause is shorter or longer.
const JITTER: f64 = 0.2;
/// Reports of changes are no closer.
pub const GAP: Duration = Duration::from_secs(2);
/// How long an acknowledgement is waited for at first.
const RETRY: Duration = Duration::from_millis(500);
/// No report and no receipt is longer, in bytes.
pub const MAX_REPORT: usize = 2560;

/// What a super-peer tells its region-peer of its sub-grid.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Which sub-grid.
    pub subgrid: SubgridId,
    /// In whose name its super-peer speaks.
    pub mandate: Mandate,
    /// Where its super-peer is.
    pub coordinate: Coordinate,
    /// Digest of the summary as it is now.
    pub digest: [u8; 8],
    /// The summary, as far as it is not known.
    pub content: Content,
}

/// The part of a summary that is not known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Content {
    /// It is as before.
    Same,
    /// It has changed.
    Changed(Difference),
    /// All of it.
    Whole(Box<Summary>),
}

/// What a region-peer answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Whose report it is about.
    pub subgrid: SubgridId,
    /// Digest of the summary that it has now, if any.
    pub digest: Option<[u8; 8]>,
}

macro_rules! bytes {
    ($($of:ty),*) => {$(
        impl $of {
            /// As it is sent.
            pub fn to_bytes(&self) -> Vec<u8> {
                postcard::to_stdvec(self).unwrap_or_default()
            }

            /// Reads what another node has sent; its parts are checked where they are used.
            pub fn read(bytes: &[u8]) -> Option<Self> {
                let read = (bytes.len() <= MAX_REPORT).then(|| postcard::take_from_bytes(bytes));
                read?.ok().filter(|(_, rest)| rest.is_empty()).map(|(read, _)| read)
            }
        }
    )*};
}

bytes!(Report, Receipt);

/// The super-peer's side.
#[derive(Debug)]
pub struct Reporter {
    subgrid: SubgridId,
    mandate: Mandate,
    coordinate: Coordinate,
    summary: Summary,
    region_peer: Option<NodeId>,
    /// What was sent last, and what the region-peer is known to have.
    sent: Option<Summary>,
    known: Option<Summary>,
    last: Option<Duration>,
    due: Duration,
    tries: u32,
    waits: bool,
    rng: StdRng,
}

impl Reporter {
    /// A super-peer under `mandate`; `seed` is random.
    pub fn new(subgrid: SubgridId, mandate: Mandate, seed: [u8; 32], now: Duration) -> Self {
        Self {
            subgrid,
            mandate,
            coordinate: Coordinate::default(),
            summary: Summary::default(),
            region_peer: None,
            sent: None,
            known: None,
            last: None,
            due: now,
            tries: 0,
            waits: false,
            rng: StdRng::from_seed(seed),
        }
    }

    /// Who answers for the region now. A new one is told soon, not by all at the same moment.
    pub fn handle_region_peer(&mut self, region_peer: Option<NodeId>, now: Duration) {
        if region_peer != self.region_peer {
            self.region_peer = region_peer;
            (self.known, self.sent, self.tries, self.waits) = (None, None, 0, false);
            self.due = now + RETRY.mul_f64(self.rng.random_range(0.0..1.0));
        }
    }

    /// Where this super-peer is; told with the next report.
    pub fn handle_coordinate(&mut self, coordinate: Coordinate) {
        self.coordinate = coordinate;
    }

    /// What its sub-grid has now.
    pub fn handle_summary(&mut self, summary: Summary, now: Duration) {
        if summary != self.summary {
            self.summary = summary;
            if !self.waits {
                let earliest = self.last.map_or(now, |last| last + GAP);
                self.due = self.due.min(earliest.max(now));
            }
        }
    }

    /// The region-peer has answered.
    pub fn handle_receipt(&mut self, from: NodeId, receipt: &Receipt, now: Duration) {
        if self.region_peer != Some(from) || receipt.subgrid != self.subgrid || !self.waits {
            return;
        }
        let sent = self.sent.take();
        self.known = sent.filter(|sent| receipt.digest == Some(sent.digest()));
        self.waits = false;
        self.tries = 0;
        self.due = match &self.known {
            // It has lost what it was told a difference to.
            None => now + RETRY,
            Some(known) if *known != self.summary => now + GAP,
            Some(_) => now + REFRESH.mul_f64(self.rng.random_range(1.0 - JITTER..=1.0 + JITTER)),
        };
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.region_peer.map(|_| self.due)
    }

    /// The report to send now, and to whom, if one is due.
    pub fn handle_timeout(&mut self, now: Duration) -> Option<(NodeId, Report)> {
        let region_peer = self.region_peer.filter(|_| self.due <= now)?;
        if self.waits {
            // The last one, or its receipt, is lost: what the other has is not known.
            self.known = None;
        }
        let digest = self.summary.digest();
        let content = match &self.known {
            Some(known) if *known == self.summary => Content::Same,
            Some(known) => Content::Changed(self.summary.difference(known)),
            None => Content::Whole(Box::new(self.summary.clone())),
        };
        self.sent = Some(self.summary.clone());
        self.waits = true;
        self.last = Some(now);
        self.tries = self.tries.saturating_add(1);
        let pause = RETRY * 2u32.saturating_pow((self.tries - 1).min(5));
        self.due = now + pause.min(REFRESH);
        let Self { subgrid, mandate, coordinate, .. } = *self;
        Some((region_peer, Report { subgrid, mandate, coordinate, digest, content }))
    }
}

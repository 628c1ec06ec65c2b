//! The live connections of each peer. Usually one; two for a moment when both sides dial at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use phantom_model::NodeId;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::PeerState;
use crate::link::{CloseCode, Connection, LinkError, Stream};
use crate::member::Certificate;

/// What is known of the peer at the other end.
#[derive(Debug, Clone)]
pub(crate) struct Remote {
    /// Its certificate, checked.
    pub certificate: Certificate,
    /// Changes each time the peer's daemon starts.
    pub instance: u64,
    /// TCP port on which it takes bulk data.
    pub bulk_port: Option<u16>,
}

/// When a connection was made. A side *begins* it when it starts to dial and *answers* it when it
/// has found the other's certificate good; between that and its end it does not dial.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Origin {
    /// Microseconds on this side's clock when this side began or answered it.
    pub here: u64,
    /// Microseconds on the other side's clock when that side began or answered it.
    pub there: u64,
    /// When the link had it ready.
    pub arrived: Instant,
}

/// An admitted connection.
pub(crate) struct Live {
    pub connection: Arc<dyn Connection>,
    pub remote: Remote,
    pub origin: Origin,
    /// Whether TCP connections to the peer for bulk data are known to go unanswered.
    pub tcp_blocked: AtomicBool,
    /// Held by every open stream.
    streams: Arc<()>,
    /// Somebody says that the other side is gone.
    doubted: AtomicBool,
    /// It may be in use or in doubt now.
    roused: Notify,
}

impl Live {
    pub fn new(connection: Arc<dyn Connection>, remote: Remote, origin: Origin) -> Arc<Self> {
        Arc::new(Self {
            connection,
            remote,
            origin,
            tcp_blocked: AtomicBool::new(false),
            streams: Arc::new(()),
            doubted: AtomicBool::new(false),
            roused: Notify::new(),
        })
    }

    pub fn peer(&self) -> NodeId {
        self.connection.peer()
    }

    /// Opens a stream.
    pub async fn open(&self) -> Result<Stream, LinkError> {
        Ok(self.mark(self.connection.open().await?))
    }

    /// The next stream the peer opens.
    pub async fn accept(&self) -> Result<Stream, LinkError> {
        Ok(self.mark(self.connection.accept().await?))
    }

    fn mark(&self, stream: Stream) -> Stream {
        let stream = stream.tied_to(self.streams.clone());
        self.roused.notify_one();
        stream
    }

    /// Has the other side show that it lives.
    pub fn doubt(&self) {
        self.doubted.store(true, Ordering::Relaxed);
        self.roused.notify_one();
    }

    /// Whether it has to.
    pub fn is_doubted(&self) -> bool {
        self.doubted.load(Ordering::Relaxed)
    }

    /// It has.
    pub fn believe(&self) {
        self.doubted.store(false, Ordering::Relaxed);
    }

    /// Waits until it may be in use or in doubt.
    pub async fn roused(&self) {
        self.roused.notified().await;
    }

    /// Whether no stream is open.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.streams) == 1
    }
}

/// What to do with two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The old one is a left-over: close it.
    CloseOld,
    /// The new one is a left-over that was slow to be admitted: close it.
    CloseNew,
    /// Keep both; the old one goes on being used for new streams.
    PreferOld,
    /// Keep both; the new one is used for new streams.
    PreferNew,
}

/// What the choice depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    pub instance: u64,
    pub dialled_here: bool,
    pub origin: Origin,
}

/// Decides between two connections with the same peer. A side begins one only when it has none:
/// one it had begun or answered before is dead, whether or not the other side knows it yet. Two of
/// which neither is dead crossed on the way; both sides then prefer the same.
pub(crate) fn choose(old: Facts, new: Facts, here: NodeId, peer: NodeId) -> Verdict {
    let close_old = |is_dead| if is_dead { Verdict::CloseOld } else { Verdict::CloseNew };
    if old.instance != new.instance {
        // The peer has restarted.
        return close_old(old.origin.arrived <= new.origin.arrived);
    }
    let (own, theirs) = match (old.dialled_here, new.dialled_here) {
        (true, true) => return close_old(old.origin.here <= new.origin.here),
        (false, false) => return close_old(old.origin.there <= new.origin.there),
        (true, false) => (old.origin, new.origin),
        (false, true) => (new.origin, old.origin),
    };
    if own.there < theirs.there {
        close_old(old.dialled_here)
    } else if theirs.here < own.here {
        close_old(new.dialled_here)
    } else if old.dialled_here == (here < peer) {
        Verdict::PreferOld
    } else {
        Verdict::PreferNew
    }
}

#[derive(Default)]
struct Slot {
    /// The first is used for new streams.
    live: Vec<Arc<Live>>,
    /// Connections that are answered and not yet among the live ones.
    arriving: usize,
    dialling: bool,
    last_error: Option<String>,
    bulk_in: u64,
    bulk_out: u64,
}

/// All peers.
pub(crate) struct Table {
    here: NodeId,
    slots: Mutex<HashMap<NodeId, Slot>>,
    changed: watch::Sender<u64>,
}

impl Table {
    pub fn new(here: NodeId) -> Self {
        Self { here, slots: Mutex::default(), changed: watch::Sender::new(0) }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<NodeId, Slot>> {
        self.slots.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts changes of any peer's state.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The connection to use for new streams.
    pub fn current(&self, peer: NodeId) -> Option<Arc<Live>> {
        let slots = self.slots();
        slots.get(&peer)?.live.iter().find(|live| !live.connection.is_closed()).cloned()
    }

    /// Has all connections with `peer` show that the other side lives.
    pub fn doubt(&self, peer: NodeId) {
        if let Some(slot) = self.slots().get(&peer) {
            slot.live.iter().for_each(|live| live.doubt());
        }
    }

    /// Whether there is a connection to use, or one about to be.
    pub fn is_met(&self, peer: NodeId) -> bool {
        let arriving = self.slots().get(&peer).is_some_and(|slot| slot.arriving > 0);
        arriving || self.current(peer).is_some()
    }

    /// Notes that a connection from `peer` is about to be answered.
    pub fn arriving(self: &Arc<Self>, peer: NodeId) -> Arriving {
        self.slots().entry(peer).or_default().arriving += 1;
        Arriving { table: self.clone(), peer }
    }

    /// Adds a connection, closing what is obsolete by it, or itself.
    pub fn admit(&self, new: Arc<Live>) {
        let peer = new.peer();
        let mut obsolete = Vec::new();
        {
            let mut slots = self.slots();
            let slot = slots.entry(peer).or_default();
            let facts = |live: &Live| Facts {
                instance: live.remote.instance,
                dialled_here: live.connection.dialled(),
                origin: live.origin,
            };
            let verdicts: Vec<_> = slot
                .live
                .iter()
                .map(|old| choose(facts(old), facts(&new), self.here, peer))
                .collect();
            if verdicts.contains(&Verdict::CloseNew) {
                obsolete.push(new);
            } else {
                let mut at = 0;
                for (live, verdict) in std::mem::take(&mut slot.live).into_iter().zip(verdicts) {
                    if verdict == Verdict::CloseOld {
                        obsolete.push(live);
                        continue;
                    }
                    slot.live.push(live);
                    if verdict == Verdict::PreferOld {
                        at = slot.live.len();
                    }
                }
                slot.live.insert(at, new);
                slot.last_error = None;
            }
        }
        for live in obsolete {
            live.connection.close(CloseCode::Duplicate, "a newer connection has taken over");
        }
        self.bump();
    }

    /// Takes a connection out that has ended.
    pub fn remove(&self, ended: &Arc<Live>, why: &LinkError) {
        if let Some(slot) = self.slots().get_mut(&ended.peer()) {
            slot.live.retain(|live| !Arc::ptr_eq(live, ended));
            // Closed for a better one, which the other side has and this one has not admitted yet,
            // it is not out of reach: who is in the middle of something must not give up.
            if slot.live.is_empty() && !why.is_for_a_better_one() {
                slot.last_error = Some(why.to_string());
            }
        }
        self.bump();
    }

    /// Whether `live` is kept beside a better connection.
    pub fn is_spare(&self, live: &Arc<Live>) -> bool {
        let slots = self.slots();
        slots
            .get(&live.peer())
            .and_then(|slot| slot.live.first())
            .is_some_and(|first| !Arc::ptr_eq(first, live) && !first.connection.is_closed())
    }

    /// How many connections with `peer` live.
    #[cfg(test)]
    pub fn count(&self, peer: NodeId) -> usize {
        self.slots().get(&peer).map_or(0, |slot| slot.live.len())
    }

    /// Notes that dialling has begun, or how it failed.
    pub fn dialling(&self, peer: NodeId, state: Result<bool, String>) {
        {
            let mut slots = self.slots();
            let slot = slots.entry(peer).or_default();
            match state {
                Ok(dialling) => slot.dialling = dialling,
                Err(reason) => {
                    slot.dialling = false;
                    slot.last_error = Some(reason);
                }
            }
        }
        self.bump();
    }

    /// Counts bulk data.
    pub fn count_bulk(&self, peer: NodeId, received: u64, sent: u64) {
        let mut slots = self.slots();
        let slot = slots.entry(peer).or_default();
        slot.bulk_in += received;
        slot.bulk_out += sent;
    }

    /// Bulk data received from and sent to `peer`, in bytes.
    pub fn bulk(&self, peer: NodeId) -> (u64, u64) {
        self.slots().get(&peer).map_or((0, 0), |slot| (slot.bulk_in, slot.bulk_out))
    }

    /// Why there is no connection, as far as is known.
    pub fn last_error(&self, peer: NodeId) -> Option<String> {
        self.slots().get(&peer)?.last_error.clone()
    }

    pub fn state(&self, peer: NodeId) -> PeerState {
        let slots = self.slots();
        let Some(slot) = slots.get(&peer) else {
            return PeerState::Unknown;
        };
        if slot.live.iter().any(|live| !live.connection.is_closed()) {
            PeerState::Connected
        } else if slot.dialling || slot.arriving > 0 {
            PeerState::Connecting
        } else {
            match &slot.last_error {
                Some(reason) => PeerState::Unreachable { reason: reason.clone() },
                None => PeerState::Unknown,
            }
        }
    }
}

/// Held while a connection is answered and not yet among the live ones.
pub(crate) struct Arriving {
    table: Arc<Table>,
    peer: NodeId,
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if let Some(slot) = self.table.slots().get_mut(&self.peer) {
            slot.arriving -= 1;
        }
        self.table.bump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const LOW: NodeId = NodeId([1; 32]);
    const HIGH: NodeId = NodeId([2; 32]);

    /// A connection as both its sides see it, the dialler's first.
    fn made(dialler: u64, answerer: u64, arrived_s: u64) -> [Facts; 2] {
        let arrived = Instant::now() + Duration::from_secs(arrived_s);
        let facts = |dialled_here, here, there| {
            let origin = Origin { here, there, arrived };
            Facts { instance: 7, dialled_here, origin }
        };
        [facts(true, dialler, answerer), facts(false, answerer, dialler)]
    }

    fn swapped(verdict: Verdict) -> Verdict {
        match verdict {
            Verdict::CloseOld => Verdict::CloseNew,
            Verdict::CloseNew => Verdict::CloseOld,
            Verdict::PreferOld => Verdict::PreferNew,
            Verdict::PreferNew => Verdict::PreferOld,
        }
    }

    #[test]
    fn both_sides_choose_the_same_of_two_that_crossed() {
        // The clocks of the two have nothing to do with each other.
        let ([a_low, a_high], [b_high, b_low]) = (made(100, 9000, 1), made(8990, 110, 1));
        assert_eq!(choose(a_low, b_low, LOW, HIGH), Verdict::PreferOld);
        assert_eq!(choose(a_high, b_high, HIGH, LOW), Verdict::PreferOld);
        for (a, b, here, peer) in [(a_low, b_low, LOW, HIGH), (a_high, b_high, HIGH, LOW)] {
            assert_eq!(choose(b, a, here, peer), swapped(choose(a, b, here, peer)));
        }
    }

    #[test]
    fn what_the_peer_has_lost_before_it_dialled_is_closed_however_young() {
        // LOW dialled; HIGH answered at 9000 and began another at 9001.
        let ([a_low, a_high], [b_high, b_low]) = (made(100, 9000, 1), made(9001, 110, 2));
        assert_eq!(choose(a_low, b_low, LOW, HIGH), Verdict::CloseOld);
        assert_eq!(choose(b_low, a_low, LOW, HIGH), Verdict::CloseNew);
        assert_eq!(choose(a_high, b_high, HIGH, LOW), Verdict::CloseOld);
        assert_eq!(choose(b_high, a_high, HIGH, LOW), Verdict::CloseNew);
    }

    #[test]
    fn of_two_dials_of_one_side_the_later_counts_whichever_is_admitted_first() {
        let ([a_near, a_far], [b_near, b_far]) = (made(100, 9000, 1), made(200, 9100, 2));
        for (a, b) in [(a_near, b_near), (a_far, b_far)] {
            assert_eq!(choose(a, b, LOW, HIGH), Verdict::CloseOld);
            assert_eq!(choose(b, a, LOW, HIGH), Verdict::CloseNew);
        }
    }

    #[test]
    fn a_restarted_peer_gets_the_connection_that_came_last() {
        let ([_, old], [_, new]) = (made(9000, 100, 1), made(5, 200, 2));
        let new = Facts { instance: 8, ..new };
        assert_eq!(choose(old, new, LOW, HIGH), Verdict::CloseOld);
        // Of the daemon that is no more, but admitted only now.
        assert_eq!(choose(new, old, LOW, HIGH), Verdict::CloseNew);
    }
}

//! The live connections of each peer. Usually one; two for a moment when both sides dial at once.

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::watch;
use tokio::time::Instant;

use super::PeerState;
use crate::link::{CloseCode, Connection, LinkError, Stream};
use crate::member::Certificate;

/// Two connections made within this time of each other by different sides crossed on the way; a
/// later one means that its maker lost the earlier.
const CROSSING: Duration = Duration::from_secs(10);

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

/// An admitted connection.
pub(crate) struct Live {
    pub connection: Arc<dyn Connection>,
    pub remote: Remote,
    pub since: Instant,
    /// Whether TCP connections to the peer for bulk data are known to go unanswered.
    pub tcp_blocked: AtomicBool,
    /// Held by every open stream.
    streams: Arc<()>,
}

impl Live {
    pub fn new(connection: Arc<dyn Connection>, remote: Remote) -> Arc<Self> {
        Arc::new(Self {
            connection,
            remote,
            since: Instant::now(),
            tcp_blocked: AtomicBool::new(false),
            streams: Arc::new(()),
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
        stream.tied_to(self.streams.clone())
    }

    /// Whether no stream is open.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.streams) == 1
    }
}

/// What to do with the connection that was there when another one arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is a left-over: close it.
    Close,
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
    /// How long it has stood.
    pub age: Duration,
}

/// Decides between two connections with the same peer. Both sides see the same facts (but for
/// who is `here`) and so come to the same choice.
pub(crate) fn choose(old: Facts, new: Facts, here: NodeId, peer: NodeId) -> Verdict {
    if old.instance != new.instance {
        return Verdict::Close; // the peer has restarted
    }
    if old.dialled_here == new.dialled_here || old.age > CROSSING {
        return Verdict::Close; // whoever dialled again had lost it
    }
    // Crossed: the one the lower id dialled counts.
    if old.dialled_here == (here < peer) { Verdict::PreferOld } else { Verdict::PreferNew }
}

#[derive(Default)]
struct Slot {
    /// The first is used for new streams.
    live: Vec<Arc<Live>>,
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

    /// Adds a connection, closing those it makes obsolete.
    pub fn admit(&self, new: Arc<Live>) {
        let peer = new.peer();
        let mut obsolete = Vec::new();
        {
            let mut slots = self.slots();
            let slot = slots.entry(peer).or_default();
            let facts = |live: &Live| Facts {
                instance: live.remote.instance,
                dialled_here: live.connection.dialled(),
                age: live.since.elapsed(),
            };
            let mut at = 0;
            let old = std::mem::take(&mut slot.live);
            for live in old {
                match choose(facts(&live), facts(&new), self.here, peer) {
                    Verdict::Close => obsolete.push(live),
                    Verdict::PreferOld => {
                        slot.live.push(live);
                        at = slot.live.len();
                    }
                    Verdict::PreferNew => slot.live.push(live),
                }
            }
            slot.live.insert(at.min(slot.live.len()), new);
            slot.last_error = None;
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
            if slot.live.is_empty() {
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
        } else if slot.dialling {
            PeerState::Connecting
        } else {
            match &slot.last_error {
                Some(reason) => PeerState::Unreachable { reason: reason.clone() },
                None => PeerState::Unknown,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: NodeId = NodeId([1; 32]);
    const HIGH: NodeId = NodeId([2; 32]);

    fn facts(instance: u64, dialled_here: bool, age_s: u64) -> Facts {
        Facts { instance, dialled_here, age: Duration::from_secs(age_s) }
    }

    #[test]
    fn both_sides_choose_the_same_of_two_that_crossed() {
        for order in [false, true] {
            // `a` was dialled by LOW, `b` by HIGH; each side may see either first.
            let verdict_low = choose(facts(7, order, 0), facts(7, !order, 0), LOW, HIGH);
            let verdict_high = choose(facts(9, !order, 0), facts(9, order, 0), HIGH, LOW);
            assert_eq!(verdict_low, verdict_high);
            let keeps_lows = if order { Verdict::PreferOld } else { Verdict::PreferNew };
            assert_eq!(verdict_low, keeps_lows);
        }
    }

    #[test]
    fn a_restarted_or_lost_peer_gets_the_new_connection() {
        assert_eq!(choose(facts(1, true, 0), facts(2, false, 0), LOW, HIGH), Verdict::Close);
        assert_eq!(choose(facts(1, false, 0), facts(1, false, 0), LOW, HIGH), Verdict::Close);
        assert_eq!(choose(facts(1, true, 60), facts(1, false, 0), LOW, HIGH), Verdict::Close);
    }
}

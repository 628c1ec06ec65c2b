//! Making connections: one dial at a time per peer, with a growing pause after failures.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::pause::{IMPATIENT, Pause, Pauses};
use super::session;
use super::table::Live;
use crate::error::Error;
use crate::link::{LinkError, PeerAddr, Protocol};
use crate::network::Inner;

/// Up to this many members each keeps a connection to every other.
const FULL_MESH: usize = 64;
/// So many addresses by hearsay are kept for a peer.
const MAX_HINTS: usize = 4;
/// How often it is looked for certificates to renew.
const RENEW: Duration = Duration::from_secs(3600);

/// What dialling members is guided by.
#[derive(Default)]
pub(crate) struct Dials {
    pauses: Pauses,
    hints: Mutex<HashMap<NodeId, VecDeque<PeerAddr>>>,
}

impl Dials {
    /// Forgets all failures: the network has changed.
    pub fn reset(&self) {
        self.pauses.reset();
    }

    /// Where a peer may be, by hearsay: tried beside the addresses known, recorded only if it is
    /// met there. `true` when that is new.
    fn add_hint(&self, peer: NodeId, addr: PeerAddr) -> bool {
        let mut hints = self.hints.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let known = hints.entry(peer).or_default();
        if known.contains(&addr) {
            return false;
        }
        known.push_back(addr);
        if known.len() > MAX_HINTS {
            known.pop_front();
        }
        true
    }

    fn take_hints(&self, peer: NodeId) -> VecDeque<PeerAddr> {
        let mut hints = self.hints.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        hints.remove(&peer).unwrap_or_default()
    }
}

/// Takes note of an address where `peer`, a member, may be, and dials it there.
pub(crate) fn hint(inner: &Arc<Inner>, peer: NodeId, addr: PeerAddr) {
    if peer == inner.id || !addr.is_sane() || inner.table.current(peer).is_some() {
        return;
    }
    if inner.book.member(peer).is_some_and(|known| !known.addrs.contains(&addr)) {
        inner.dials.add_hint(peer, addr);
    }
    // It has just been heard: what failed before may work now.
    if let Ok(mut state) = pause(inner, peer).try_lock() {
        state.forget();
    }
    seek_one(inner, peer);
}

/// A live connection to `peer`: the one there is, or a new one made in time.
pub(crate) async fn connected(
    inner: &Arc<Inner>,
    peer: NodeId,
    within: Duration,
) -> Result<Arc<Live>, Error> {
    inner.book.standing()?;
    inner.book.member(peer).ok_or(Error::UnknownPeer(peer))?;
    let deadline = Instant::now() + within;
    let mut changes = inner.table.changes();
    loop {
        changes.mark_unchanged();
        if let Some(live) = inner.table.current(peer) {
            return Ok(live);
        }
        // A dial is never given up half-way: the other side may have begun to use what it makes.
        begin(inner, peer, IMPATIENT);
        // The end of the dial is a change, and so is the peer's own arriving first.
        if timeout_at(deadline, changes.changed()).await.is_err() {
            let silent = || LinkError::Silent.to_string();
            let reason = inner.table.last_error(peer).unwrap_or_else(silent);
            return Err(Error::Unreachable { peer, after: within, reason });
        }
    }
}

fn pause(inner: &Inner, peer: NodeId) -> Pause {
    inner.dials.pauses.of(peer, &inner.config.timing)
}

/// Begins to dial `peer`, unless that is under way, after the pause the last failures ask for but
/// no longer than `patience`.
fn begin(inner: &Arc<Inner>, peer: NodeId, patience: Duration) {
    let Ok(mut state) = pause(inner, peer).try_lock_owned() else { return };
    let inner = inner.clone();
    inner.clone().tasks.spawn(async move {
        let stop = inner.stop.clone();
        let work = async {
            if let Some(due) = state.due(&inner.config.timing, patience) {
                sleep_until(due).await;
            }
            // Before the look at what there is: see `Origin`.
            let begun = inner.clock_us();
            if inner.table.is_met(peer) {
                return;
            }
            inner.table.dialling(peer, Ok(true));
            let outcome = match dial(&inner, peer, begun).await {
                Ok(_) => {
                    state.forget();
                    Ok(false)
                }
                Err(error) => {
                    tracing::debug!(peer = %peer.short(), %error, "a member is out of reach");
                    state.failed();
                    Err(reason(&error))
                }
            };
            // Unlocked first: who is woken by the change may dial again.
            drop(state);
            inner.table.dialling(peer, outcome);
        };
        tokio::select! {
            () = work => {}
            () = stop.cancelled() => {}
        }
    });
}

/// Why a dial has failed, in words.
pub(crate) fn reason(error: &Error) -> String {
    match error {
        Error::Cut { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

async fn dial(inner: &Arc<Inner>, peer: NodeId, begun: u64) -> Result<Arc<Live>, Error> {
    let member = inner.book.member(peer).ok_or(Error::UnknownPeer(peer))?;
    let cut = |source| Error::Cut { peer, what: "dialling", source };
    let mut addrs = member.addrs;
    addrs.extend(inner.dials.take_hints(peer));
    let connection = inner.link.dial(peer, &addrs, Protocol::Member).await.map_err(cut)?;
    let established = session::establish(inner, connection, Some(begun)).await?;
    Ok(inner.admit(established))
}

/// Keeps looking for members without a connection, so that certificates spread and the state of
/// every member is known.
pub(crate) async fn seek(inner: Arc<Inner>) {
    let mut changes = inner.book.changes();
    let mut renewed = Instant::now();
    loop {
        if renewed.elapsed() >= RENEW {
            renewed = Instant::now();
            if let Err(error) = inner.book.renew().await {
                tracing::warn!(%error, "certificates that end before long are not renewed");
            }
        }
        changes.mark_unchanged();
        let members = inner.book.members();
        if members.len() <= FULL_MESH {
            members.iter().for_each(|member| seek_one(&inner, member.node()));
        }
        tokio::select! {
            () = sleep(inner.config.timing.seek) => {}
            _ = changes.changed() => {}
            () = inner.stop.cancelled() => return,
        }
    }
}

fn seek_one(inner: &Arc<Inner>, peer: NodeId) {
    if peer == inner.id || inner.table.current(peer).is_some() {
        return;
    }
    let timing = &inner.config.timing;
    match pause(inner, peer).try_lock() {
        Ok(state) if state.next(timing).is_none_or(|next| next <= Instant::now()) => {}
        // Somebody dials already, or it is too early.
        _ => return,
    }
    if inner.id < peer {
        return begin(inner, peer, Duration::ZERO);
    }
    // The lower id goes first, so that dials seldom cross.
    let (inner, head_start) = (inner.clone(), timing.backoff_min * 2);
    inner.clone().tasks.spawn(async move {
        tokio::select! {
            () = sleep(head_start) => begin(&inner, peer, Duration::ZERO),
            () = inner.stop.cancelled() => {}
        }
    });
}

//! Making connections: one dial at a time per peer, with a growing pause after failures.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::session;
use super::table::Live;
use crate::error::Error;
use crate::link::{LinkError, Protocol};
use crate::network::Inner;

/// Somebody who waits for a peer is not made to wait longer than this between attempts.
const IMPATIENT: Duration = Duration::from_secs(1);
/// Up to this many members each keeps a connection to every other.
const FULL_MESH: usize = 64;

/// The pauses of all peers.
#[derive(Default)]
pub(crate) struct Dials(Mutex<HashMap<NodeId, Arc<Pause>>>);

#[derive(Default)]
struct Pause {
    /// Held while dialling.
    state: tokio::sync::Mutex<PauseState>,
}

#[derive(Default)]
struct PauseState {
    failures: u32,
    failed_at: Option<Instant>,
}

impl Dials {
    fn pause(&self, peer: NodeId) -> Arc<Pause> {
        let mut pauses = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        pauses.entry(peer).or_default().clone()
    }

    /// Forgets all failures: the network has changed.
    pub fn reset(&self) {
        let pauses = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for pause in pauses.values() {
            // Where a dial is under way it goes on.
            if let Ok(mut state) = pause.state.try_lock() {
                *state = PauseState::default();
            }
        }
    }
}

/// The pause after `failures` failed dials in a row.
fn pause_after(failures: u32, min: Duration, max: Duration) -> Duration {
    min.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(max)
}

/// A live connection to `peer`: the one there is, or a new one made by `deadline`.
pub(crate) async fn connected(
    inner: &Arc<Inner>,
    peer: NodeId,
    within: Duration,
) -> Result<Arc<Live>, Error> {
    let deadline = Instant::now() + within;
    let mut last = None;
    let mut changes = inner.table.changes();
    loop {
        let mut attempt = pin!(attempt(inner, peer, IMPATIENT));
        let outcome = loop {
            changes.mark_unchanged();
            if let Some(live) = inner.table.current(peer) {
                return Ok(live);
            }
            tokio::select! {
                // The peer may be dialling us.
                _ = changes.changed() => {}
                outcome = timeout_at(deadline, &mut attempt) => break outcome,
            }
        };
        match outcome {
            Ok(Ok(live)) => return Ok(live),
            Ok(Err(error)) if is_final(&error) => return Err(error),
            Ok(Err(error)) => last = Some(error),
            Err(_) => {
                let silent = || LinkError::Silent.to_string();
                let reason = last.as_ref().map_or_else(silent, reason);
                return Err(Error::Unreachable { peer, after: within, reason });
            }
        }
    }
}

/// Whether trying again is of no use.
fn is_final(error: &Error) -> bool {
    matches!(
        error,
        Error::NotMember | Error::UnknownPeer(_) | Error::ShutDown | Error::Certificate(_)
    )
}

fn reason(error: &Error) -> String {
    match error {
        Error::Cut { source, .. } => source.to_string(),
        other => other.to_string(),
    }
}

/// One dial, after the pause the last failures ask for (at most `patience`).
async fn attempt(inner: &Arc<Inner>, peer: NodeId, patience: Duration) -> Result<Arc<Live>, Error> {
    let pause = inner.dials.pause(peer);
    let mut state = pause.state.lock().await;
    if let Some(live) = inner.table.current(peer) {
        return Ok(live);
    }
    let timing = &inner.config.timing;
    if let Some(failed_at) = state.failed_at {
        let wait = pause_after(state.failures, timing.backoff_min, timing.backoff_max);
        sleep_until(failed_at + wait.min(patience)).await;
    }
    // A dial that is dropped half-way (the peer's own arrived first) must not stay `Connecting`.
    let _dialling = Dialling::begin(inner, peer);
    match dial(inner, peer).await {
        Ok(live) => {
            *state = PauseState::default();
            Ok(live)
        }
        Err(error) => {
            state.failures = state.failures.saturating_add(1);
            state.failed_at = Some(Instant::now());
            inner.table.dialling(peer, Err(reason(&error)));
            Err(error)
        }
    }
}

struct Dialling<'a>(&'a Inner, NodeId);

impl<'a> Dialling<'a> {
    fn begin(inner: &'a Inner, peer: NodeId) -> Self {
        inner.table.dialling(peer, Ok(true));
        Self(inner, peer)
    }
}

impl Drop for Dialling<'_> {
    fn drop(&mut self) {
        self.0.table.dialling(self.1, Ok(false));
    }
}

async fn dial(inner: &Arc<Inner>, peer: NodeId) -> Result<Arc<Live>, Error> {
    if inner.book.membership().is_none() {
        return Err(Error::NotMember);
    }
    let member = inner.book.member(peer).ok_or(Error::UnknownPeer(peer))?;
    let cut = |source| Error::Cut { peer, what: "dialling", source };
    let connection = inner.link.dial(peer, &member.addrs, Protocol::Member).await.map_err(cut)?;
    let established = session::establish(inner, connection).await?;
    Ok(inner.admit(established))
}

/// Keeps looking for members without a connection, so that certificates spread and the state of
/// every member is known.
pub(crate) async fn seek(inner: Arc<Inner>) {
    let mut changes = inner.book.changes();
    loop {
        changes.mark_unchanged();
        let members = inner.book.members();
        if members.len() <= FULL_MESH {
            for member in members {
                let peer = member.node();
                if peer != inner.id && inner.table.current(peer).is_none() {
                    let inner = inner.clone();
                    inner.clone().tasks.spawn(async move {
                        let stop = inner.stop.clone();
                        tokio::select! {
                            () = seek_one(inner, peer) => {}
                            () = stop.cancelled() => {}
                        }
                    });
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(inner.config.timing.seek) => {}
            _ = changes.changed() => {}
            () = inner.stop.cancelled() => return,
        }
    }
}

async fn seek_one(inner: Arc<Inner>, peer: NodeId) {
    let pause = inner.dials.pause(peer);
    // Somebody dials already.
    let Ok(state) = pause.state.try_lock() else {
        return;
    };
    let timing = &inner.config.timing;
    let wait = pause_after(state.failures, timing.backoff_min, timing.backoff_max);
    let failed_at = state.failed_at;
    drop(state);
    if failed_at.is_some_and(|at| at.elapsed() < wait) {
        return;
    }
    if inner.id > peer {
        // The lower id goes first, so that dials seldom cross.
        tokio::time::sleep(timing.backoff_min * 2).await;
        if inner.table.current(peer).is_some() {
            return;
        }
    }
    if let Err(error) = attempt(&inner, peer, Duration::ZERO).await {
        tracing::debug!(peer = %peer.short(), %error, "a member is out of reach");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let (min, max) = (Duration::from_millis(200), Duration::from_secs(10));
        assert_eq!(pause_after(1, min, max), min);
        assert_eq!(pause_after(3, min, max), min * 4);
        assert_eq!(pause_after(40, min, max), max);
        assert_eq!(pause_after(0, min, max), min);
    }
}

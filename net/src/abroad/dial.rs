//! Reaching a node of another sub-grid: over what there is, or one dial at a time.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::Contact;
use super::hello;
use super::line::Line;
use super::pool::Picked;
use crate::error::Error;
use crate::link::{CloseCode, LinkError, PeerAddr, Protocol};
use crate::member::MAX_ADDRS;
use crate::network::Inner;
use crate::peer::dial::reason;
use crate::peer::pause::IMPATIENT;
use crate::wire::FrameError;

/// A connection to the node: the one there is, or a new one made by `deadline`. Fails at once where
/// trying again would end the same way.
pub(super) async fn reach(
    inner: &Arc<Inner>,
    to: &Contact,
    within: Duration,
    deadline: Instant,
) -> Result<Picked, Error> {
    if to.node == inner.id {
        return Err(Error::OwnContact);
    }
    let pool = &inner.abroad.pool;
    let (mut changes, mut last) = (pool.changes(), LinkError::Silent.to_string());
    loop {
        if inner.stop.is_cancelled() {
            return Err(Error::ShutDown);
        }
        inner.book.standing()?;
        let mut attempt = pin!(attempt(inner, to));
        let failed = loop {
            changes.mark_unchanged();
            // The other side may dial first.
            if let Some(picked) = pool.pick(to) {
                return Ok(picked);
            }
            tokio::select! {
                outcome = &mut attempt => match outcome {
                    Ok(picked) => return Ok(picked),
                    Err(error) => break error,
                },
                _ = changes.changed() => {}
                () = sleep_until(deadline) => {
                    return Err(Error::Unreachable { peer: to.node, after: within, reason: last });
                }
            }
        };
        match failed {
            Error::Cut { source: source @ LinkError::NoAddress, .. } => {
                let reason = source.to_string();
                return Err(Error::Unreachable { peer: to.node, after: Duration::ZERO, reason });
            }
            error if is_final(&error) => return Err(error),
            error => last = reason(&error),
        }
    }
}

/// Whether it would happen again.
fn is_final(error: &Error) -> bool {
    use CloseCode::{NotAdmitted, Protocol};
    match error {
        Error::Cut { source: LinkError::ClosedByPeer { code, .. }, .. } => {
            matches!(code, Some(NotAdmitted | Protocol))
        }
        Error::Protocol { source, .. } => matches!(source, FrameError::Frame(_)),
        Error::Cut { .. } | Error::Deadline { .. } => false,
        _ => true,
    }
}

/// One dial, after those under way, and after the pause the last failures ask for.
async fn attempt(inner: &Arc<Inner>, to: &Contact) -> Result<Picked, Error> {
    let timing = &inner.config.timing;
    let mut state = inner.abroad.pauses.of(to.node, timing).lock_owned().await;
    if let Some(picked) = inner.abroad.pool.pick(to) {
        return Ok(picked);
    }
    if let Some(due) = state.due(timing, IMPATIENT) {
        sleep_until(due).await;
    }
    // A dial is never given up half-way: the other side may have begun to use what it makes.
    let (dialling, to) = (inner.clone(), to.clone());
    let task = inner.tasks.spawn(async move {
        let stop = dialling.stop.clone();
        let outcome = tokio::select! {
            outcome = dial(&dialling, &to) => outcome,
            () = stop.cancelled() => return Err(Error::ShutDown),
        };
        match &outcome {
            Ok(_) => state.forget(),
            Err(_) => state.failed(),
        }
        outcome
    });
    let line = task.await.unwrap_or(Err(Error::ShutDown))?;
    let mark = line.mark();
    Ok((line, mark))
}

async fn dial(inner: &Arc<Inner>, to: &Contact) -> Result<Arc<Line>, Error> {
    let sane = to.addrs.iter().filter(|addr| addr.is_sane()).take(MAX_ADDRS);
    let addrs: Vec<PeerAddr> = sane.cloned().collect();
    let connection = inner.link.dial(to.node, &addrs, Protocol::Abroad).await;
    let connection =
        connection.map_err(|source| Error::Cut { peer: to.node, what: "dialling", source })?;
    hello::establish(inner, connection).await
}

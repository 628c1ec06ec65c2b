//! The connections there are, and which of them makes room for another.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::watch;

use super::line::{Line, Mark};
use super::place::{Candidate, victim};
use super::{Contact, MAX_CONNECTIONS};
use crate::link::CloseCode;

/// A connection on which no stream was open for this long is closed by the side that has dialled it.
pub(super) const IDLE: Duration = Duration::from_secs(60);
/// One that the other side has dialled is used for new messages up to this age only: it is not about
/// to be closed there.
const REUSE: Duration = Duration::from_secs(50);
/// One that the other side has dialled and not closed is closed here.
const FORGOTTEN: Duration = Duration::from_secs(75);

/// A connection about to be used.
pub(super) type Picked = (Arc<Line>, Arc<Mark>);

/// All connections: of each node at most one that it has dialled and one that this node has.
pub(super) struct Pool {
    lines: Mutex<Vec<Arc<Line>>>,
    changed: watch::Sender<u64>,
}

impl Default for Pool {
    fn default() -> Self {
        Self { lines: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Pool {
    fn lines(&self) -> MutexGuard<'_, Vec<Arc<Line>>> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Counts new connections.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// How many there are.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.lines().len()
    }

    /// The connection to use for a message: one of the wanted sub-grid, then one that the other side
    /// has dialled.
    pub fn pick(&self, to: &Contact) -> Option<Picked> {
        let lines = self.lines();
        let usable = |line: &&Arc<Line>| {
            let young = line.idle().is_none_or(|idle| idle < REUSE);
            is_of(line, to.node)
                && !line.connection.is_closed()
                && (line.connection.dialled() || young)
        };
        let best = lines.iter().filter(usable).max_by_key(|line| {
            let wanted = to.subgrid.is_none_or(|wanted| wanted == line.subgrid());
            (wanted, !line.connection.dialled())
        })?;
        // Marked while locked: nobody finds it idle any more.
        Some((best.clone(), best.mark()))
    }

    /// Adds a connection. Of the same node and direction it takes the place of the one before; beyond
    /// [`MAX_CONNECTIONS`] of its direction it takes that of [`another`](victim). `false` when there
    /// is none to be had.
    pub fn admit(&self, new: Arc<Line>) -> bool {
        let obsolete = {
            let mut lines = self.lines();
            let dialled = new.connection.dialled();
            let alike: Vec<_> =
                (0..lines.len()).filter(|at| lines[*at].connection.dialled() == dialled).collect();
            let mut obsolete = alike.iter().copied().find(|at| is_of(&lines[*at], new.peer()));
            if obsolete.is_none() && alike.len() >= MAX_CONNECTIONS {
                let candidate = |at: &usize| Candidate {
                    source: lines[*at].source.clone(),
                    idle: lines[*at].idle().is_some(),
                    quiet: lines[*at].quiet(),
                };
                let candidates: Vec<_> = alike.iter().map(candidate).collect();
                let Some(victim) = victim(&candidates, &new.source) else { return false };
                obsolete = Some(alike[victim]);
            }
            let obsolete = obsolete.map(|at| lines.swap_remove(at));
            lines.push(new);
            obsolete
        };
        if let Some(line) = obsolete {
            line.connection.close(CloseCode::Duplicate, "another connection has taken its place");
        }
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// Takes out a connection that has ended.
    pub fn remove(&self, ended: &Arc<Line>) {
        self.lines().retain(|line| !Arc::ptr_eq(line, ended));
    }

    /// Takes out a connection that has been idle for too long. `false` when it was not.
    pub fn retire(&self, line: &Arc<Line>) -> bool {
        let mut lines = self.lines();
        let limit = if line.connection.dialled() { IDLE } else { FORGOTTEN };
        let retires = line.idle().is_some_and(|idle| idle >= limit);
        if retires {
            lines.retain(|other| !Arc::ptr_eq(other, line));
        }
        retires
    }
}

fn is_of(line: &Line, node: NodeId) -> bool {
    line.peer() == node
}

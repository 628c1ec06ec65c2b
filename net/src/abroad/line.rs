//! One established connection with a node of another sub-grid.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::message::{self, Kind};
use super::meter::{BURST, RATE, Verdict};
use super::place::Source;
use super::{Answer, Foreign, MESSAGE, Proven};
use crate::error::Error;
use crate::link::{CloseCode, Connection, LinkError, Stream};
use crate::member::Certificate;
use crate::network::Inner;
use crate::wire::FrameError;

/// How often it is looked whether a connection is idle.
const LOOK: Duration = Duration::from_secs(5);

/// A connection both sides of which have shown good certificates.
pub(super) struct Line {
    pub connection: Arc<dyn Connection>,
    /// The other side's.
    certificate: Certificate,
    /// The sub-grid of which this node was a member when it was made.
    own: SubgridId,
    /// Where it comes from.
    pub source: Source,
    activity: Arc<Activity>,
}

struct Activity {
    streams: AtomicUsize,
    last: Mutex<Instant>,
}

impl Activity {
    fn touch(&self) {
        *self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Instant::now();
    }
}

/// Held by an open stream: its connection is not idle.
pub(super) struct Mark(Arc<Activity>);

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.touch();
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Line {
    pub fn new(
        connection: Arc<dyn Connection>,
        certificate: Certificate,
        own: SubgridId,
    ) -> Arc<Self> {
        let activity = Activity { streams: AtomicUsize::new(0), last: Mutex::new(Instant::now()) };
        let source = Source::of(connection.stats().path);
        Arc::new(Self { connection, certificate, own, source, activity: Arc::new(activity) })
    }

    pub fn peer(&self) -> NodeId {
        self.connection.peer()
    }

    /// The other side's sub-grid.
    pub fn subgrid(&self) -> SubgridId {
        self.certificate.terms().subgrid
    }

    pub fn proven(&self) -> Proven {
        Proven {
            node: self.peer(),
            subgrid: self.subgrid(),
            name: self.certificate.terms().name.clone(),
            addr: self.connection.stats().path,
        }
    }

    /// Begins to use it.
    pub fn mark(&self) -> Arc<Mark> {
        self.activity.streams.fetch_add(1, Ordering::AcqRel);
        self.activity.touch();
        Arc::new(Mark(self.activity.clone()))
    }

    /// For how long no stream has been open; `None` while one is.
    pub fn idle(&self) -> Option<Duration> {
        (self.activity.streams.load(Ordering::Acquire) == 0).then(|| self.quiet())
    }

    /// For how long no stream has begun or ended.
    pub fn quiet(&self) -> Duration {
        let last = self.activity.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        last.elapsed()
    }
}

/// Serves a connection until it ends.
pub(super) async fn run(inner: Arc<Inner>, line: Arc<Line>) {
    let why = tokio::select! {
        why = line.connection.closed() => why,
        why = serve(&inner, &line) => why,
        why = watch(&inner, &line) => why,
        () = inner.stop.cancelled() => {
            line.connection.close(CloseCode::Done, "the node is shutting down");
            LinkError::ClosedHere
        }
    };
    tracing::debug!(peer = %line.peer().short(), %why, "a connection with another sub-grid has ended");
    inner.abroad.pool.remove(&line);
}

/// Takes the streams the other side opens.
async fn serve(inner: &Arc<Inner>, line: &Arc<Line>) -> LinkError {
    loop {
        let stream = match line.connection.accept().await {
            Ok(stream) => stream,
            Err(why) => return why,
        };
        let verdict = inner.abroad.meters().weigh(line.peer(), Instant::now());
        if let Verdict::Name(dropped) = verdict {
            let Proven { node, subgrid, name, addr } = line.proven();
            tracing::warn!(
                peer = %node.short(), subgrid = %subgrid.short(), name, dropped,
                address = addr.map(|addr| addr.to_string()),
                "a node of another sub-grid sends more than {RATE} messages a second ({BURST} at \
                 once): what is beyond is dropped"
            );
        }
        if verdict != Verdict::Pass {
            // Dropped, and so reset.
            continue;
        }
        let (inner, line, stream) = (inner.clone(), line.clone(), stream.tied_to(line.mark()));
        inner.clone().tasks.spawn(async move {
            let stop = inner.stop.clone();
            tokio::select! {
                () = take(&inner, &line, stream) => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Takes one message in.
async fn take(inner: &Arc<Inner>, line: &Line, mut stream: Stream) {
    let read = timeout(MESSAGE, message::read(&mut stream.recv, &inner.abroad.room));
    let message = match read.await {
        Ok(Ok(message)) => message,
        Ok(Err(source @ FrameError::Frame(_))) => {
            let peer = line.peer();
            let reason = source.to_string();
            let error = Error::Protocol { peer, what: "a message from another sub-grid", source };
            if inner.refused.is_news(peer, &error, Instant::now()) {
                tracing::warn!(%error, "a connection with another sub-grid is closed");
            }
            return line.connection.close(CloseCode::Protocol, &reason);
        }
        // It is dropped, and so reset.
        Ok(Err(_)) | Err(_) => return,
    };
    let Proven { node, subgrid, name, addr } = line.proven();
    let stream = (message.kind == Kind::Ask).then_some(stream);
    let answer = Answer { stream, _room: message.room };
    let foreign = Foreign { peer: node, subgrid, name, addr, payload: message.payload, answer };
    // When nobody takes it in time it is dropped, and so reset.
    let _ = inner.abroad.incoming.send_timeout(foreign, MESSAGE).await;
}

/// Looks from time to time, and when the membership has changed, whether both sides still are what
/// they have shown, and closes a connection that is idle.
async fn watch(inner: &Arc<Inner>, line: &Arc<Line>) -> LinkError {
    let every = inner.config.timing.expiry_check.min(LOOK);
    let mut tick = interval(every.max(Duration::from_millis(10)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut changes = inner.book.changes();
    loop {
        let ticked = tokio::select! {
            _ = tick.tick() => true,
            _ = changes.changed() => false,
        };
        if let Some(error) = parted(inner, line) {
            tracing::debug!(
                peer = %line.peer().short(), reason = %error,
                "a connection with another sub-grid is closed"
            );
            line.connection.close(CloseCode::NotAdmitted, &error.to_string());
            return LinkError::Other(error.to_string());
        }
        if ticked && inner.abroad.pool.retire(line) {
            line.connection.close(CloseCode::Done, "it was not used for a while");
            return LinkError::ClosedHere;
        }
    }
}

/// Why one of the two is no longer what it has shown.
fn parted(inner: &Inner, line: &Line) -> Option<Error> {
    let own = match inner.book.standing() {
        Ok(own) => own,
        Err(Error::NotMember) => return Some(Error::Left),
        Err(error) => return Some(error),
    };
    if own.subgrid() != line.own {
        return Some(Error::Left);
    }
    let now = inner.book.now();
    let is_over = |certificate: &Certificate| certificate.terms().expires <= now;
    if is_over(&own.certificate) {
        return own.certificate.check(own.subgrid(), now).err().map(Error::from);
    }
    // Signatures do not change: there is more to look at only where this node knows more.
    (is_over(&line.certificate) || line.subgrid() == own.subgrid())
        .then(|| inner.book.check_abroad(&line.certificate, line.peer()).err())
        .flatten()
}

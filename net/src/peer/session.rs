//! What happens on one connection between members: certificates first, then the list of members
//! is kept the same on both sides while the services' streams come and go.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::frame;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout};

use super::pulse;
use super::table::{Arriving, Live, Origin, Remote};
use crate::book::{Membership, News};
use crate::error::Error;
use crate::link::{CloseCode, Connection, LinkError, PeerAddr, RecvStream, SendStream, Stream};
use crate::member::{Certificate, MAX_ADDRS, Member};
use crate::network::Inner;
use crate::service::{Incoming, ServiceId, StreamHead};
use crate::wire::{self, FrameError, read_frame, write_frame};

/// Streams an admitted member may have open at once.
const MAX_STREAMS: u32 = 256;
const MAX_HELLO: usize = 16 << 10;
/// Fits the largest list of members with all their addresses.
const MAX_LIST: usize = 4 << 20;
/// Larger stream headers are for the stream itself.
pub(crate) const MAX_HEADER: usize = 64 << 10;
/// How long after a failure the other side's reason is waited for.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// How long a node that is dialled before it is a member has to become one.
const JOINING: Duration = Duration::from_secs(1);
/// How long a spare connection must be unused before its maker closes it.
const SPARE: Duration = Duration::from_secs(2);
/// How long a node that was put out has to hear of it before its connection is closed.
const LAST_NEWS: Duration = Duration::from_millis(200);

/// The first message of each side.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub certificate: Certificate,
    pub instance: u64,
    /// Microseconds on the sender's clock when it began to dial, or answers.
    pub made_at_us: u64,
    pub bulk_port: Option<u16>,
    pub addrs: Vec<PeerAddr>,
}

/// An admitted connection and its first stream.
pub(crate) struct Established {
    pub live: Arc<Live>,
    stream: Stream,
    /// To be kept until it is in the table.
    pub arriving: Option<Arriving>,
}

/// Exchanges certificates on a connection that this side began to make at `begun`, or that the
/// other side made. On failure the connection is closed and the other side told why.
pub(crate) async fn establish(
    inner: &Arc<Inner>,
    connection: Arc<dyn Connection>,
    begun: Option<u64>,
) -> Result<Established, Error> {
    let arrived = Instant::now();
    let peer = connection.peer();
    let after = inner.config.timing.handshake;
    let what = "the exchange of certificates";
    let done = timeout(after, exchange(inner, &connection, begun, arrived)).await;
    let error = match done {
        Ok(Ok(established)) => {
            connection.allow(MAX_STREAMS);
            let Hello { addrs, .. } = &established.1;
            let own = Member {
                certificate: established.1.certificate.clone(),
                addrs: addrs.iter().take(MAX_ADDRS).cloned().collect(),
            };
            inner.book.announce(own).await;
            match connection.stats().path {
                Some(path) if connection.dialled() => inner.book.worked(peer, &path).await,
                // Where it came from is where it may be reached: nodes dial from the port they
                // listen on.
                Some(path) => {
                    let certificate = established.1.certificate.clone();
                    inner.book.learn(vec![Member { certificate, addrs: vec![path] }]).await;
                }
                None => {}
            }
            return Ok(established.0);
        }
        Ok(Err(error)) => error,
        Err(_) => Error::Deadline { peer, what, after },
    };
    Err(turn_away(inner, &*connection, what, error).await)
}

/// Ends a connection on which `what` has failed, as [`refuse`] does, and notes it in the log.
pub(crate) async fn turn_away(
    inner: &Inner,
    connection: &dyn Connection,
    what: &'static str,
    error: Error,
) -> Error {
    let peer = connection.peer();
    let told = refuse(connection, what, error).await;
    if !matches!(told, Error::Cut { .. }) && inner.refused.is_news(peer, &told, Instant::now()) {
        let address = connection.stats().path.map(|path| path.to_string());
        tracing::warn!(peer = %peer.short(), address, reason = %told, "a node was turned away");
    }
    told
}

/// Ends a connection on which `what` has failed, telling the other side why, or hearing it.
async fn refuse(connection: &dyn Connection, what: &'static str, error: Error) -> Error {
    let verdict = match &error {
        Error::Certificate(error) => Some((CloseCode::NotAdmitted, error.to_string())),
        Error::FalseMember(_) => {
            Some((CloseCode::NotAdmitted, "the node takes part in no sub-grid".to_owned()))
        }
        Error::NotMember => {
            Some((CloseCode::NotAdmitted, "the node belongs to no sub-grid".to_owned()))
        }
        Error::Protocol { source: FrameError::Ended, .. } | Error::Cut { .. } => None,
        Error::Deadline { .. } => Some((CloseCode::Protocol, format!("{what} took too long"))),
        other => Some((CloseCode::Protocol, other.to_string())),
    };
    if let Some((code, reason)) = verdict {
        connection.close(code, &reason);
        return error;
    }
    // The other side gave up: its words are the ones to show. They may come after its streams end.
    let closed = timeout(LAST_WORDS, connection.closed()).await;
    connection.close(CloseCode::Done, "the connection failed");
    match closed {
        Ok(source) => Error::Cut { peer: connection.peer(), what, source },
        Err(_) => error,
    }
}

/// This node's membership. One that is just joining may be dialled by other members before it has
/// recorded the fact.
async fn membership(inner: &Inner, at_once: bool) -> Option<Membership> {
    let mut changes = inner.book.changes();
    if at_once || inner.book.membership().is_some() {
        return inner.book.membership();
    }
    let joined = changes.wait_for(|_| inner.book.membership().is_some());
    let _ = timeout(JOINING, joined).await;
    inner.book.membership()
}

async fn exchange(
    inner: &Arc<Inner>,
    connection: &Arc<dyn Connection>,
    begun: Option<u64>,
    arrived: Instant,
) -> Result<(Established, Hello), Error> {
    let peer = connection.peer();
    let what = "the exchange of certificates";
    let membership = membership(inner, begun.is_some()).await.ok_or(Error::NotMember)?;
    let mut hello = Hello {
        certificate: membership.certificate.clone(),
        instance: inner.instance,
        made_at_us: begun.unwrap_or_default(),
        bulk_port: inner.bulk_port(),
        addrs: inner.link.addrs().await,
    };
    let cut = |source| Error::Cut { peer, what, source };
    let frame = |source| match source {
        FrameError::Io(error) => cut(LinkError::Other(error.to_string())),
        source => Error::Protocol { peer, what, source },
    };
    let (stream, theirs, arriving) = if begun.is_some() {
        let mut stream = connection.open().await.map_err(cut)?;
        write_frame(&mut stream, &hello, MAX_HELLO).await.map_err(frame)?;
        let theirs: Hello = read_frame(&mut stream, MAX_HELLO).await.map_err(frame)?;
        inner.book.check(&theirs.certificate, peer)?;
        (stream, theirs, None)
    } else {
        let mut stream = connection.accept().await.map_err(cut)?;
        let theirs: Hello = read_frame(&mut stream, MAX_HELLO).await.map_err(frame)?;
        // A stranger learns nothing before this.
        inner.book.check(&theirs.certificate, peer)?;
        // From here on no dial begins, and only then is the time taken: see `Origin`.
        let arriving = inner.table.arriving(peer);
        hello.made_at_us = inner.clock_us();
        write_frame(&mut stream, &hello, MAX_HELLO).await.map_err(frame)?;
        (stream, theirs, Some(arriving))
    };
    let remote = Remote {
        certificate: theirs.certificate.clone(),
        instance: theirs.instance,
        bulk_port: theirs.bulk_port,
    };
    let origin = Origin { here: hello.made_at_us, there: theirs.made_at_us, arrived };
    let live = Live::new(connection.clone(), remote, origin);
    Ok((Established { live, stream, arriving }, theirs))
}

/// Serves an admitted connection until it ends.
pub(crate) async fn run(inner: Arc<Inner>, established: Established) {
    let Established { live, stream, .. } = established;
    let (send, recv) = stream.split();
    let why = tokio::select! {
        why = live.connection.closed() => why,
        why = tell(&inner, &live, send) => why,
        why = hear(&inner, &live, recv) => why,
        why = serve(&inner, &live) => why,
        why = watch(&inner, &live) => why,
        why = pulse::listen(&live, &inner.config.timing) => why,
        () = inner.stop.cancelled() => {
            live.connection.close(CloseCode::Done, "the node is shutting down");
            LinkError::ClosedHere
        }
    };
    tracing::debug!(peer = %live.peer().short(), %why, "a connection has ended");
    inner.table.remove(&live, &why);
}

/// Ends the connection and passes on why, preferring what the other side said.
async fn broken(live: &Live, reason: &str) -> LinkError {
    let closed = timeout(LAST_WORDS, live.connection.closed()).await;
    closed.unwrap_or_else(|_| {
        live.connection.close(CloseCode::Protocol, reason);
        LinkError::Other(reason.to_owned())
    })
}

/// Sends what is known of members and virtual organisations now and whenever it has changed.
async fn tell(inner: &Arc<Inner>, live: &Live, mut send: SendStream) -> LinkError {
    let mut changes = inner.book.changes();
    let mut told = None;
    let mut told_vos = BTreeMap::new();
    loop {
        changes.mark_unchanged();
        // Before the policy, which may name them.
        while let Some(part) = inner.book.vo_news(&mut told_vos) {
            if let Err(error) = write_frame(&mut send, &part, MAX_LIST).await {
                return broken(live, &error.to_string()).await;
            }
        }
        let digest = inner.book.digest();
        if digest != told {
            if let Err(error) = write_frame(&mut send, &inner.book.news(), MAX_LIST).await {
                return broken(live, &error.to_string()).await;
            }
            told = digest;
        }
        if changes.changed().await.is_err() {
            return LinkError::ClosedHere;
        }
    }
}

/// Takes what the peer knows of members.
async fn hear(inner: &Arc<Inner>, live: &Live, mut recv: RecvStream) -> LinkError {
    loop {
        match read_frame::<News>(&mut recv, MAX_LIST).await {
            Ok(news) => inner.book.hear(news).await,
            Err(error) => return broken(live, &error.to_string()).await,
        }
    }
}

/// Hands out the streams the peer opens.
async fn serve(inner: &Arc<Inner>, live: &Arc<Live>) -> LinkError {
    loop {
        let stream = match live.accept().await {
            Ok(stream) => stream,
            Err(why) => return why,
        };
        let (inner, live) = (inner.clone(), live.clone());
        inner.clone().tasks.spawn(async move {
            let stop = inner.stop.clone();
            let work = stream_opened(inner, live, stream);
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

async fn stream_opened(inner: Arc<Inner>, live: Arc<Live>, mut stream: Stream) {
    let limit = inner.config.timing.handshake;
    let head = timeout(limit, wire::read_bytes(&mut stream.recv, MAX_HEADER + 64)).await;
    let head = match head {
        Ok(Ok(bytes)) => frame::decode::<StreamHead>(&bytes).map_err(FrameError::from),
        Ok(Err(error)) => Err(error),
        // The stream is dropped, and so reset.
        Err(_) => return tracing::debug!(peer = %live.peer().short(), "a stream without a head"),
    };
    let head = match head {
        Ok(head) => head,
        Err(error @ FrameError::Frame(_)) => {
            tracing::warn!(peer = %live.peer().short(), %error, "a member broke the protocol");
            return live.connection.close(CloseCode::Protocol, &error.to_string());
        }
        Err(_) => return,
    };
    stream.send.set_priority(head.service.priority());
    if head.service == ServiceId::BULK {
        return inner.bulk.lane(live.peer(), stream).await;
    }
    let incoming =
        Incoming { peer: live.peer(), service: head.service, raw_header: head.header, stream };
    // When nobody takes it in time it is dropped, and so reset.
    let _ = inner.incoming.send_timeout(incoming, limit).await;
}

/// Checks the certificates of both sides from time to time and when rights have changed, and closes
/// a spare connection.
async fn watch(inner: &Arc<Inner>, live: &Arc<Live>) -> LinkError {
    let every = inner.config.timing.expiry_check.max(Duration::from_millis(10));
    let mut changes = inner.book.changes();
    let mut connections = inner.table.changes();
    let (mut looked, mut was_unused) = (Instant::now(), false);
    loop {
        let is_spare = live.connection.dialled() && inner.table.is_spare(live);
        let wait = if is_spare { every.min(SPARE) } else { every };
        let ticked = tokio::select! {
            () = tokio::time::sleep_until(looked + wait) => true,
            _ = changes.changed() => false,
            // Whether it is a spare one may be otherwise now; nothing else is.
            _ = connections.changed() => continue,
        };
        if ticked {
            looked = Instant::now();
        }
        if let Some(error) = parted(inner, live) {
            // So that the other side hears, and can show, what it was.
            tokio::time::sleep(LAST_NEWS).await;
            tracing::warn!(peer = %live.peer().short(), reason = %error, "parted from a node");
            live.connection.close(CloseCode::NotAdmitted, &error.to_string());
            return LinkError::Other(error.to_string());
        }
        if ticked {
            let unused = is_spare && live.is_unused();
            if unused && was_unused {
                live.connection.close(CloseCode::Duplicate, "there is a better connection");
                return LinkError::ClosedHere;
            }
            was_unused = unused;
        }
    }
}

/// Why this node and the other are no longer members of one sub-grid.
fn parted(inner: &Inner, live: &Live) -> Option<Error> {
    let own = match inner.book.standing() {
        Ok(own) => own.certificate,
        Err(Error::NotMember) => return Some(Error::Left),
        Err(error) => return Some(error),
    };
    [(&live.remote.certificate, live.peer()), (&own, inner.id)]
        .into_iter()
        .find_map(|(certificate, node)| inner.book.check(certificate, node).err())
}

/// Writes the head of a stream for `service`.
pub(crate) async fn write_head(
    send: &mut SendStream,
    service: &ServiceId,
    header: Vec<u8>,
) -> Result<(), FrameError> {
    let head = StreamHead { service: service.clone(), header };
    write_frame(send, &head, MAX_HEADER + 64).await?;
    send.flush().await?;
    Ok(())
}

//! The node's network as the rest of the node sees it.

mod bulk;
mod rights;
mod vos;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use phantom_model::{NodeId, frame};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::abroad::{self, Abroad, MAX_STRANGERS};
use crate::book::{Book, Membership};
use crate::bulk::Arrivals;
use crate::bulk::tcp::Listener;
use crate::bulk::tls::Tls;
use crate::config::Config;
use crate::error::Error;
use crate::join::{self, request::Requests};
use crate::key::{NodeKey, SubgridKey};
use crate::link::quic::QuicLink;
use crate::link::{CloseCode, Link, PeerAddr, Protocol, RelayStatus, Stream};
use crate::member::{CertificateError, Member, Token, valid_name};
use crate::peer::dial::{self, Dials};
use crate::peer::refused::Refused;
use crate::peer::session::{self, Established, MAX_HEADER};
use crate::peer::table::{Live, Table};
use crate::peer::{PeerState, PeerStatus};
use crate::service::{Incoming, ServiceId, bounded, exchange};
use crate::store::Store;

/// Connections from outside that may be without a proven membership at once.
const STRANGERS: usize = 64;
/// Streams that may wait for [`Network::accept`].
const INCOMING: usize = 256;

/// A node's identity, membership and connections. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub id: NodeId,
    /// Drawn anew at each start, so that peers notice a restart.
    pub instance: u64,
    pub started: Instant,
    pub config: Config,
    pub link: Arc<dyn Link>,
    pub book: Book,
    /// Who asks to be let in.
    pub requests: Requests,
    pub table: Arc<Table>,
    pub dials: Dials,
    pub refused: Refused,
    pub bulk: Arrivals,
    pub abroad: Abroad,
    pub incoming: mpsc::Sender<Incoming>,
    pub tasks: TaskTracker,
    pub stop: CancellationToken,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Incoming>>,
    tls: Tls,
    bulk_port: OnceLock<u16>,
}

impl Inner {
    /// The TCP port on which this node takes bulk data.
    pub fn bulk_port(&self) -> Option<u16> {
        self.bulk_port.get().copied()
    }

    /// This instance's own clock.
    pub fn clock_us(&self) -> u64 {
        self.started.elapsed().as_micros() as u64
    }

    /// Takes an established connection into use.
    pub fn admit(self: &Arc<Self>, mut established: Established) -> Arc<Live> {
        let live = established.live.clone();
        self.table.admit(live.clone());
        drop(established.arriving.take());
        self.tasks.spawn(session::run(self.clone(), established));
        live
    }
}

impl Network {
    /// Binds the node's port and begins to answer. Nothing but `key`, `config` and `store` is
    /// needed; whether the node is a member of a sub-grid is in the store.
    ///
    /// # Errors
    /// The port, a key file or the store cannot be used.
    pub async fn start(config: Config, key: NodeKey, store: Arc<dyn Store>) -> Result<Self, Error> {
        let link = QuicLink::bind(&config, &key).await?;
        let mut listen = config.listen;
        listen.set_port(link.port());
        let network = Self::with_link(config, &key, store, Arc::new(link)).await?;
        if network.inner.config.bulk_tcp {
            network.listen_for_bulk(listen).await;
        }
        Ok(network)
    }

    /// As [`Network::start`] over any link, without TCP for bulk.
    ///
    /// # Errors
    /// A key file or the store cannot be used.
    pub async fn with_link(
        config: Config,
        key: &NodeKey,
        store: Arc<dyn Store>,
        link: Arc<dyn Link>,
    ) -> Result<Self, Error> {
        let subgrid_key = SubgridKey::load(&config.state_dir)?;
        let id = key.id();
        let book = Book::open(key.clone(), store, subgrid_key, config.clock.clone()).await?;
        let tls = Tls::new(key)
            .map_err(|error| Error::Bind { addr: "bulk".to_owned(), reason: error.to_string() })?;
        let (incoming, accepted) = mpsc::channel(INCOMING);
        let table = Arc::new(Table::new(id));
        let counting = table.clone();
        let bulk = Arrivals::new(Arc::new(move |node, bytes| counting.count_bulk(node, bytes, 0)));
        let inner = Arc::new(Inner {
            id,
            instance: rand::random(),
            started: Instant::now(),
            config,
            link,
            book,
            requests: Requests::default(),
            table,
            dials: Dials::default(),
            refused: Refused::default(),
            bulk,
            abroad: Abroad::default(),
            incoming,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            accepted: tokio::sync::Mutex::new(accepted),
            tls,
            bulk_port: OnceLock::new(),
        });
        inner.tasks.spawn(answer(inner.clone()));
        inner.tasks.spawn(dial::seek(inner.clone()));
        Ok(Self { inner })
    }

    async fn listen_for_bulk(&self, listen: SocketAddr) {
        let inner = &self.inner;
        match Listener::bind(listen, &inner.tls).await {
            Ok(listener) => {
                if let Some(port) = listener.port() {
                    let _ = inner.bulk_port.set(port);
                }
                let (tasks, stop) = (inner.tasks.clone(), inner.stop.clone());
                inner.tasks.spawn(listener.run(inner.bulk.clone(), tasks, stop));
            }
            Err(error) => tracing::warn!(
                %error, %listen,
                "no TCP port for bulk data: it will come over the node connection, more slowly"
            ),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Inner> {
        &self.inner
    }

    #[cfg(test)]
    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    /// This node's id.
    pub fn id(&self) -> NodeId {
        self.inner.id
    }

    /// Where others can reach this node, as far as it knows.
    pub async fn addrs(&self) -> Vec<PeerAddr> {
        self.inner.link.addrs().await
    }

    /// How this node stands with its relay, if its configuration names one.
    pub fn relay(&self) -> Option<RelayStatus> {
        self.inner.link.relay()
    }

    /// This node's place in a sub-grid, if it has one.
    pub fn membership(&self) -> Option<Membership> {
        self.inner.book.membership()
    }

    /// This node's place in a sub-grid, or why it has none.
    ///
    /// # Errors
    /// It belongs to none, or what the store says of one does not hold.
    pub fn standing(&self) -> Result<Membership, Error> {
        self.inner.book.standing()
    }

    /// Makes this node, called `name`, the founder and first member of a new sub-grid.
    ///
    /// # Errors
    /// It is a member already, the name is not one, or key or store cannot be written.
    pub async fn found(&self, name: &str) -> Result<Membership, Error> {
        self.not_yet_member()?;
        match self.standing() {
            // It has no sub-grid to lose.
            Err(Error::FalseMember(CertificateError::Removed { .. })) | Err(Error::NotMember) => {}
            other => drop(other?),
        }
        if !valid_name(name) {
            return Err(CertificateError::Name(name.to_owned()).into());
        }
        let dir = self.inner.config.state_dir.clone();
        let key = tokio::task::spawn_blocking(move || SubgridKey::load_or_create(&dir)).await;
        let key = key.map_err(|_| Error::ShutDown)??;
        self.inner.book.found(key, name, self.addrs().await).await
    }

    /// Makes an invitation for one node that holds for `ttl`.
    ///
    /// # Errors
    /// This node may let nobody in, has no address, or the store cannot be written.
    pub async fn invite(&self, ttl: Duration) -> Result<Token, Error> {
        let mut addrs = self.addrs().await;
        addrs.truncate(crate::member::MAX_TOKEN_ADDRS);
        if addrs.is_empty() {
            return Err(Error::NoOwnAddress);
        }
        self.inner.book.invite(ttl.as_secs().max(1), addrs).await
    }

    /// Joins the sub-grid `token` invites to, asking to be called `name` there. After a failure
    /// the same node may try again with the same token. A member whose certificate is over gets a
    /// new one that way.
    ///
    /// # Errors
    /// This node is a member already, the token does not hold, the inviter cannot be reached or
    /// refuses, or the store cannot be written.
    pub async fn join(&self, token: &Token, name: &str) -> Result<Membership, Error> {
        let is_over = |membership: &Membership| {
            let now = self.inner.book.now();
            let certificate = &membership.certificate;
            membership.subgrid() == token.subgrid && certificate.check(token.subgrid, now).is_err()
        };
        if !self.membership().is_some_and(|membership| is_over(&membership)) {
            self.not_yet_member()?;
        }
        let membership = join::token::ask(&self.inner, token, name).await?;
        self.meet(token.inviter);
        Ok(membership)
    }

    /// Connects to a node, so that through it everybody can be reached at once.
    fn meet(&self, node: NodeId) {
        let inner = self.inner.clone();
        self.inner.tasks.spawn(async move {
            let within = inner.config.timing.handshake;
            let _ = dial::connected(&inner, node, within).await;
        });
    }

    fn not_yet_member(&self) -> Result<(), Error> {
        match self.membership() {
            None => Ok(()),
            Some(membership) => Err(Error::AlreadyMember {
                subgrid: membership.subgrid(),
                name: membership.name().to_owned(),
            }),
        }
    }

    /// Forgets the sub-grid and closes all connections. Others go on knowing this node until its
    /// certificate expires. The keys stay.
    ///
    /// # Errors
    /// The store cannot be written.
    pub async fn leave(&self) -> Result<(), Error> {
        self.inner.book.leave().await
    }

    /// All members known, this node among them.
    pub fn members(&self) -> Vec<Member> {
        self.inner.book.members()
    }

    /// Nodes that were put out of the sub-grid and have not been let in again.
    pub fn removed(&self) -> Vec<NodeId> {
        self.inner.book.removed()
    }

    /// All other members and how this node stands with them.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let others = self.members().into_iter().filter(|member| member.node() != self.id());
        others.map(|member| self.status(member)).collect()
    }

    fn status(&self, member: Member) -> PeerStatus {
        let node = member.node();
        let table = &self.inner.table;
        let stats = table.current(node).map(|live| live.connection.stats());
        let (bulk_in, bulk_out) = table.bulk(node);
        PeerStatus {
            node,
            name: member.name().to_owned(),
            state: table.state(node),
            trouble: table.last_error(node).filter(|_| stats.is_none()),
            addrs: member.addrs,
            path: stats.as_ref().and_then(|stats| stats.path.clone()),
            rtt: stats.as_ref().and_then(|stats| stats.rtt),
            bytes_in: stats.as_ref().map_or(0, |stats| stats.bytes_in),
            bytes_out: stats.as_ref().map_or(0, |stats| stats.bytes_out),
            bulk_in,
            bulk_out,
        }
    }

    /// Over which address bytes go to `node` now, if it is known; `None` without a connection.
    pub fn path(&self, node: NodeId) -> Option<Option<PeerAddr>> {
        Some(self.inner.table.current(node)?.connection.stats().path)
    }

    /// Somebody who watches the members has found that `node` is gone: its connections are closed
    /// unless it answers soon ([`crate::config::Timing::doubted`]).
    pub fn doubt(&self, node: NodeId) {
        self.inner.table.doubt(node);
    }

    /// How this node stands with `node`.
    pub fn peer_state(&self, node: NodeId) -> PeerState {
        self.inner.table.state(node)
    }

    /// Counts changes of any peer's state: look at [`Network::peers`] again when it moves.
    pub fn peer_changes(&self) -> watch::Receiver<u64> {
        self.inner.table.changes()
    }

    /// Counts changes of the membership or of what is known of members.
    pub fn member_changes(&self) -> watch::Receiver<u64> {
        self.inner.book.changes()
    }

    /// Waits until there is a connection to `node`, dialling as needed.
    ///
    /// # Errors
    /// There is none `within` that time.
    pub async fn connect(&self, node: NodeId, within: Duration) -> Result<(), Error> {
        self.live(node, within).await.map(|_| ())
    }

    async fn live(&self, node: NodeId, within: Duration) -> Result<Arc<Live>, Error> {
        if self.inner.stop.is_cancelled() {
            return Err(Error::ShutDown);
        }
        dial::connected(&self.inner, node, within).await
    }

    /// Opens a stream to a service of `node`, connecting first if need be. The header (postcard,
    /// at most 64 KiB) comes out at [`Incoming::header`].
    ///
    /// # Errors
    /// The node cannot be reached `within` that time.
    pub async fn open<T: Serialize + Sync>(
        &self,
        node: NodeId,
        service: &ServiceId,
        header: &T,
        within: Duration,
    ) -> Result<Stream, Error> {
        let what = "opening a stream";
        let header = frame::body(header, MAX_HEADER).map_err(|error| Error::Protocol {
            peer: node,
            what,
            source: error.into(),
        })?;
        let deadline = Instant::now() + within;
        let left = || deadline.saturating_duration_since(Instant::now());
        loop {
            let live = self.live(node, left()).await?;
            let opened = async {
                let mut stream = live.open().await?;
                stream.send.set_priority(service.priority());
                session::write_head(&mut stream.send, service, header.clone())
                    .await
                    .map_err(|error| crate::link::LinkError::Other(error.to_string()))?;
                Ok(stream)
            };
            match timeout(left(), opened).await {
                Ok(Ok(stream)) => return Ok(stream),
                Err(_) => {
                    return Err(Error::Deadline { peer: node, what, after: within });
                }
                // The connection died under us: a new one is worth a try, the stream is not
                // known to the other side.
                Ok(Err(_)) if live.connection.is_closed() && !left().is_zero() => {}
                Ok(Err(source)) => {
                    return Err(Error::Cut { peer: node, what, source });
                }
            }
        }
    }

    /// Sends one request to a service of `node` and waits for its one answer.
    ///
    /// # Errors
    /// There is no answer `within` that time. The request may have been carried out all the same.
    pub async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        node: NodeId,
        service: &ServiceId,
        request: &Q,
        within: Duration,
    ) -> Result<A, Error> {
        let deadline = Instant::now() + within;
        let stream = self.open(node, service, &(), within).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut send, mut recv) = stream.split();
        let work = exchange(&mut send, &mut recv, request);
        bounded(node, "a call", left, work).await
    }

    /// Tells a service of `node` something that fits into a header, and waits for no answer.
    ///
    /// # Errors
    /// The node cannot be reached `within` that time. Without one it may still be lost.
    pub async fn tell<T: Serialize + Sync>(
        &self,
        node: NodeId,
        service: &ServiceId,
        header: &T,
        within: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let stream = self.open(node, service, header, within).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut send, _recv) = stream.split();
        // Without an orderly end the header would be taken back.
        let end = async { Ok(tokio::io::AsyncWriteExt::shutdown(&mut send).await?) };
        bounded(node, "telling it something", left, end).await
    }

    /// Like [`Network::call`], with a header, and an answer that says nothing.
    ///
    /// # Errors
    /// It is not known `within` that time that the other has it.
    pub async fn deliver<H: Serialize + Sync, Q: Serialize>(
        &self,
        node: NodeId,
        service: &ServiceId,
        header: &H,
        parcel: &Q,
        within: Duration,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + within;
        let stream = self.open(node, service, header, within).await?;
        let left = deadline.saturating_duration_since(Instant::now());
        let (mut send, mut recv) = stream.split();
        let work = exchange(&mut send, &mut recv, parcel);
        bounded(node, "a delivery", left, work).await
    }

    /// The next stream another member opens; `None` after [`Network::shutdown`]. Streams nobody
    /// takes within seconds are reset.
    pub async fn accept(&self) -> Option<Incoming> {
        let mut accepted = self.inner.accepted.lock().await;
        tokio::select! {
            incoming = accepted.recv() => incoming,
            () = self.inner.stop.cancelled() => None,
        }
    }

    /// The machine's network has changed or it has slept: pauses after failed dials end.
    pub async fn network_changed(&self) {
        self.inner.dials.reset();
        self.inner.abroad.reset();
        self.inner.link.network_changed().await;
    }

    /// Closes all connections, telling the peers, and stops; takes no longer than `deadline`.
    pub async fn shutdown(&self, deadline: Duration) {
        self.inner.stop.cancel();
        self.inner.tasks.close();
        let end = async {
            self.inner.tasks.wait().await;
            self.inner.abroad.clear().await;
            self.inner.link.close().await;
        };
        if timeout(deadline, end).await.is_err() {
            tracing::warn!(?deadline, "not all connections ended in time");
        }
    }
}

/// Answers connections from outside.
async fn answer(inner: Arc<Inner>) {
    let room = Arc::new(Semaphore::new(STRANGERS));
    // Of their own: they must not keep members out.
    let room_abroad = Arc::new(Semaphore::new(MAX_STRANGERS));
    loop {
        let connection = tokio::select! {
            connection = inner.link.accept() => connection,
            () = inner.stop.cancelled() => return,
        };
        let Some(connection) = connection else { return };
        let room = match connection.protocol() {
            Protocol::Abroad => &room_abroad,
            Protocol::Join | Protocol::Member => &room,
        };
        let Ok(place) = room.clone().try_acquire_owned() else {
            connection.close(CloseCode::Busy, "too many connections at once, try again");
            continue;
        };
        let handled = inner.clone();
        inner.tasks.spawn(async move {
            let inner = handled;
            let stop = inner.stop.clone();
            let work = async {
                match connection.protocol() {
                    Protocol::Abroad => abroad::answer(&inner, connection, place).await,
                    Protocol::Join => join::answer(&inner, &*connection, place).await,
                    Protocol::Member => {
                        let _place = place;
                        // On failure both sides have been told.
                        if let Ok(established) = session::establish(&inner, connection, None).await
                        {
                            inner.admit(established);
                        }
                    }
                }
            };
            tokio::select! {
                () = work => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

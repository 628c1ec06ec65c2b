//! The one task that owns sockets and machines.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use phantom_model::NodeId;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::config::Config;
use crate::envelope::{self, Pair, ShortId};
use crate::fabric::Fabric;
use crate::lanes::Lanes;
use crate::machine::group::MAX_ELECTORS;
use crate::machine::{Beacon, Care, Command, Found, Membership, Search, Seen};
use crate::socket::{Sockets, is_plain};
use crate::way::Way;
use crate::wire::{self, Body, Datagram, Letter, Presence, Query};

/// How often the machine's clocks are looked at: whether it has slept.
const LOOK: Duration = Duration::from_millis(500);
/// Its networks each so many looks.
const NETWORKS: u32 = 10;
/// A presence whose time is further off is of no use.
const FRESH_MS: u64 = 300_000;
/// Searches at once.
const MAX_SEARCHES: usize = 4;
const MAX_ORDERS: usize = 256;
/// Parcels that are to be sent: a super-peer beats for all members at once.
const MAX_POSTS: usize = 2 * MAX_ELECTORS;
/// Parcels that have come and wait to be opened, of all members and of one; more are lost.
const MAX_POSTED: usize = MAX_ELECTORS;
const MAX_POSTED_EACH: usize = 4;
/// What is on its way over the connection with one member; more goes as datagrams only.
const MAX_PASSED: usize = 8;

/// What members have sent with [`Discovery::post`].
pub type Posted = mpsc::Receiver<Parcel>;

/// What one of them has sent.
#[derive(Debug)]
pub struct Parcel {
    /// Who.
    pub from: NodeId,
    /// What.
    pub bytes: Vec<u8>,
    /// Among what waits of this member.
    place: OwnedSemaphorePermit,
}

impl Parcel {
    /// Takes it, so that the next one may come.
    pub fn take(self) -> (NodeId, Vec<u8>) {
        drop(self.place);
        (self.from, self.bytes)
    }
}

/// Finds who is near and knows who lives. Clones are the same.
#[derive(Clone)]
pub struct Discovery {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    posts: mpsc::Sender<(NodeId, Vec<u8>)>,
}

#[derive(Default)]
struct Shared {
    seen: Mutex<HashMap<NodeId, (bool, Instant)>>,
    changed: watch::Sender<u64>,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, HashMap<NodeId, (bool, Instant)>> {
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

enum Order {
    Search { peers: Vec<SocketAddr>, founding: bool, found: oneshot::Sender<Vec<Found>> },
    Payload { from: NodeId, payload: Vec<u8> },
}

impl Discovery {
    /// Begins. Where the port cannot be had there is no search, and members gossip over their
    /// connections only.
    pub fn start(config: Config, fabric: Arc<dyn Fabric>) -> (Self, Posted) {
        let sockets = match Sockets::bind(config.port) {
            Ok(sockets) => Some(sockets),
            Err(error) => {
                tracing::warn!(
                    %error,
                    port = config.port,
                    "no UDP port to find others by: choose another with `discovery_port`, or stop \
                     what uses it"
                );
                None
            }
        };
        let (orders, ordered) = mpsc::channel(MAX_ORDERS);
        let (posts, to_post) = mpsc::channel(MAX_POSTS);
        let (posted, parcels) = mpsc::channel(MAX_POSTED);
        let shared = Arc::new(Shared::default());
        let began = Instant::now();
        let membership =
            Membership::new(fabric.node(), config.generation, rand::random(), Duration::ZERO);
        let driver = Driver {
            config,
            fabric,
            sockets,
            shared: shared.clone(),
            began,
            beacon: Beacon::default(),
            membership,
            searches: Vec::new(),
            pairs: HashMap::new(),
            shorts: HashMap::new(),
            peers: HashMap::new(),
            posted,
            waiting: Lanes::new(MAX_POSTED_EACH),
            passed: Lanes::new(MAX_PASSED),
            told_ms: 0,
            was_member: false,
        };
        tokio::spawn(driver.run(ordered, to_post));
        (Self { shared, orders, posts }, parcels)
    }

    /// Looks for members of any sub-grid: on the local network, or only at `peers` if there are
    /// any. `founding` tells whether a sub-grid will be founded if none is found. Takes up to
    /// 1.2 s, or as long again when another node looks at the same time.
    pub async fn search(&self, peers: Vec<SocketAddr>, founding: bool) -> Vec<Found> {
        let (found, answer) = oneshot::channel();
        let order = Order::Search { peers, founding, found };
        if self.orders.send(order).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// A member has sent this over its connection.
    pub async fn take(&self, from: NodeId, payload: Vec<u8>) {
        let _ = self.orders.send(Order::Payload { from, payload }).await;
    }

    /// Sends a member something short, at most [`wire::MAX_PARCEL`] bytes, that may be lost: as a
    /// datagram, and over the connection unless datagrams work. It comes back where too many wait.
    pub fn post(&self, to: NodeId, parcel: Vec<u8>) -> Result<(), Vec<u8>> {
        self.posts.try_send((to, parcel)).map_err(|error| error.into_inner().1)
    }

    /// Whether a member lives and for how long that is known; `None` when it was not heard yet.
    pub fn seen(&self, node: NodeId) -> Option<Seen> {
        let (up, since) = *self.shared.seen().get(&node)?;
        Some(Seen { up, since: since.elapsed() })
    }

    /// Counts changes of [`Discovery::seen`].
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }
}

/// What is known of the way to a member.
#[derive(Default)]
struct Peer {
    /// Where its last authentic datagram came from.
    addr: Option<SocketAddr>,
    /// Since this machine's network has changed.
    way: Way,
    /// Its last presence, by its own clock.
    presence_ms: u64,
}

struct Driver {
    config: Config,
    fabric: Arc<dyn Fabric>,
    sockets: Option<Sockets>,
    shared: Arc<Shared>,
    began: Instant,
    beacon: Beacon,
    membership: Membership,
    searches: Vec<(Search, Vec<SocketAddr>, oneshot::Sender<Vec<Found>>)>,
    pairs: HashMap<NodeId, Pair>,
    shorts: HashMap<ShortId, NodeId>,
    peers: HashMap<NodeId, Peer>,
    posted: mpsc::Sender<Parcel>,
    waiting: Lanes,
    passed: Lanes,
    told_ms: u64,
    was_member: bool,
}

impl Driver {
    async fn run(
        mut self,
        mut ordered: mpsc::Receiver<Order>,
        mut to_post: mpsc::Receiver<(NodeId, Vec<u8>)>,
    ) {
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looks = 0u32;
        let mut slept = asleep();
        let mut changes = self.fabric.changes();
        changes.mark_changed();
        loop {
            let next = self.began + self.next_timeout();
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(order) => self.obey(order),
                    // The node is shutting down.
                    None => return,
                },
                Some((to, parcel)) = to_post.recv() => {
                    self.send(to, Body::Parcel(&parcel), Care::Usual).await;
                }
                changed = changes.changed() => match changed {
                    Ok(()) => self.members_changed(),
                    Err(_) => return,
                },
                (datagram, from) = receive(&self.sockets) => self.received(&datagram, from).await,
                _ = look.tick() => {
                    let woke = std::mem::replace(&mut slept, asleep()) + LOOK < asleep();
                    let networks = looks.is_multiple_of(NETWORKS) || woke;
                    looks = looks.wrapping_add(1);
                    let moved = networks && self.look_at_networks();
                    if woke || moved {
                        self.network_changed().await;
                    }
                }
                () = sleep_until(next) => {}
            }
            self.act().await;
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn next_timeout(&self) -> Duration {
        let searches = self.searches.iter().map(|(search, ..)| search.poll_timeout());
        let machines = [self.beacon.poll_timeout(), self.membership.poll_timeout()];
        // Without any it is looked again soon enough.
        let idle = self.now() + Duration::from_secs(60);
        machines.into_iter().flatten().chain(searches).min().unwrap_or(idle)
    }

    fn obey(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Payload { from, payload } => {
                if Membership::is_ask(&payload) {
                    self.peers.entry(from).or_default().way.handle_missed();
                }
                self.membership.handle_payload(from, &payload, now);
            }
            Order::Search { peers, founding, found } => {
                if self.searches.len() < MAX_SEARCHES && self.sockets.is_some() {
                    let search = Search::new(self.fabric.node(), rand::random(), founding, now);
                    self.searches.push((search, peers, found));
                }
                // Dropped, a search has found nobody.
            }
        }
    }

    fn members_changed(&mut self) {
        let (now, own) = (self.now(), self.fabric.node());
        let members = self.fabric.members();
        self.shorts = members.iter().map(|node| (ShortId::from(*node), *node)).collect();
        self.pairs.retain(|node, _| members.contains(node));
        self.peers.retain(|node, _| members.contains(node));
        self.waiting.retain(|node| members.contains(node));
        self.passed.retain(|node| members.contains(node));
        self.shared.seen().retain(|node, _| members.contains(node));
        let is_member = members.contains(&own);
        if is_member && !self.was_member {
            self.beacon.handle_change(now);
        } else if !is_member {
            self.beacon.handle_leave();
        }
        self.was_member = is_member;
        self.membership.handle_roster(members, now);
    }

    fn look_at_networks(&mut self) -> bool {
        self.config.multicast && self.sockets.as_mut().is_some_and(Sockets::join)
    }

    async fn network_changed(&mut self) {
        if self.was_member {
            self.beacon.handle_change(self.now());
        }
        for peer in self.peers.values_mut() {
            peer.way = Way::default();
        }
        self.fabric.network_changed().await;
    }

    async fn received(&mut self, datagram: &[u8], from: SocketAddr) {
        let from = SocketAddr::new(from.ip().to_canonical(), from.port());
        let now = self.now();
        match wire::read(datagram) {
            Some(Datagram::Query(query)) if query.node != self.fabric.node() => {
                for (search, ..) in &mut self.searches {
                    search.handle_query(query, now);
                }
                if self.was_member && self.beacon.handle_query(from.ip(), now) {
                    self.tell(Some((query, from))).await;
                }
            }
            Some(Datagram::Presence(signed)) => self.presence(signed, from, now),
            Some(Datagram::Sealed(sealed)) => self.open(sealed, from, now).await,
            _ => {}
        }
    }

    fn presence(&mut self, signed: &[u8], from: SocketAddr, now: Duration) {
        let Some(signed) = self.fabric.read(signed) else { return };
        let Some(presence) = Presence::read(&signed.body) else { return };
        if signed.node == self.fabric.node() || !is_plain(from.ip()) {
            return;
        }
        if signed.is_member {
            let peer = self.peers.entry(signed.node).or_default();
            let age = self.fabric.unix_ms().abs_diff(presence.at_ms);
            if presence.at_ms > peer.presence_ms && age < FRESH_MS {
                peer.presence_ms = presence.at_ms;
                // Where it came from nobody has proven.
                if !peer.way.is_heard(now) {
                    peer.addr = Some(SocketAddr::new(from.ip(), presence.datagram_port));
                }
                self.fabric.heard(signed.node, SocketAddr::new(from.ip(), presence.port));
            }
        }
        let found = Found {
            subgrid: signed.subgrid,
            node: signed.node,
            name: signed.name,
            ip: from.ip(),
            presence,
            // The search knows when it has asked.
            rtt: Duration::ZERO,
        };
        for (search, ..) in &mut self.searches {
            search.handle_presence(found.clone(), now);
        }
    }

    async fn open(&mut self, sealed: &[u8], from: SocketAddr, now: Duration) {
        let sender = envelope::sender(sealed).and_then(|short| self.shorts.get(&short).copied());
        let Some(node) = sender.filter(|node| *node != self.fabric.node()) else { return };
        let Some(opened) = self.pair(node).and_then(|pair| pair.open(sealed)) else { return };
        let Some(letter) = Letter::read(opened) else { return };
        match letter.body {
            Body::Gossip(payload) => self.membership.handle_payload(node, payload, now),
            Body::Parcel(parcel) => {
                let Some(place) = self.waiting.place(node) else { return };
                // Without a place it is lost, and as good as not heard.
                let parcel = Parcel { from: node, bytes: parcel.to_vec(), place };
                if self.posted.try_send(parcel).is_err() {
                    return;
                }
            }
        }
        let peer = self.peers.entry(node).or_default();
        peer.addr = Some(from);
        peer.way.handle_heard(letter.hears, now);
        // Whoever gives signs of life is seldom written to.
        if letter.body == Body::Gossip(&[]) && peer.way.is_misjudged(now) {
            self.send(node, Body::Gossip(&[]), Care::Little).await;
        }
    }

    fn pair(&mut self, node: NodeId) -> Option<&mut Pair> {
        if !self.pairs.contains_key(&node) {
            let (own, start) = (self.fabric.node(), self.fabric.unix_ms().saturating_mul(1000));
            let key = self.fabric.shared_key(node)?;
            self.pairs.insert(node, Pair::new(own, node, key, start));
        }
        self.pairs.get_mut(&node)
    }

    /// Does what is due and what the machines want done.
    async fn act(&mut self) {
        let now = self.now();
        if self.beacon.handle_timeout(now) {
            self.tell(None).await;
        }
        self.search(now).await;
        if self.membership.poll_timeout().is_some_and(|at| at <= now) {
            self.membership.handle_timeout(now);
        }
        while let Some(command) = self.membership.poll_command(now) {
            match command {
                Command::Send { to, payload, care } => {
                    self.send(to, Body::Gossip(&payload), care).await;
                }
                Command::Up(node) => self.note(node, true),
                Command::Down(node) => {
                    self.note(node, false);
                    self.fabric.lost(node);
                }
            }
        }
    }

    fn note(&self, node: NodeId, up: bool) {
        match up {
            true => tracing::info!(node = %node.short(), "a member lives"),
            false => tracing::info!(node = %node.short(), "a member is gone"),
        }
        self.shared.seen().insert(node, (up, Instant::now()));
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Sends a letter: by datagram where it may arrive, and over the connection unless datagrams are
    /// known to.
    async fn send(&mut self, to: NodeId, body: Body<'_>, care: Care) {
        let now = self.now();
        let peer = self.peers.entry(to).or_default();
        let works = peer.way.works(care, now);
        let hears = peer.way.handle_sent(care, now);
        let mut places: Vec<SocketAddr> = peer.addr.into_iter().collect();
        let contact = if works { None } else { self.fabric.contact(to) };
        if !works {
            let port = self.config.port;
            let connected = contact.and_then(|contact| contact.ip);
            let known = if contact.is_some() { Vec::new() } else { self.fabric.known_at(to) };
            let ips = connected.into_iter().chain(known.into_iter().take(2));
            for ip in ips.filter(|ip| is_plain(*ip)) {
                let place = SocketAddr::new(ip, port);
                if !places.contains(&place) {
                    places.push(place);
                }
            }
        }
        if let Some(pair) = self.pair(to) {
            let datagram = wire::sealed(&pair.seal(&Letter { hears, body }.to_bytes()));
            if let Some(sockets) = &self.sockets {
                for place in places {
                    sockets.send(&datagram, place).await;
                }
            }
        }
        if works || (contact.is_none() && matches!(body, Body::Gossip(_))) {
            return;
        }
        let Some(place) = self.passed.place(to) else { return };
        let fabric = self.fabric.clone();
        match body {
            Body::Gossip(payload) => {
                let payload = payload.to_vec();
                tokio::spawn(async move {
                    fabric.pass(to, payload).await;
                    drop(place);
                });
            }
            // Connecting if need be.
            Body::Parcel(parcel) => {
                let parcel = parcel.to_vec();
                tokio::spawn(async move {
                    fabric.deliver(to, parcel).await;
                    drop(place);
                });
            }
        }
    }

    /// Tells everybody, or who has asked, where this node is.
    async fn tell(&mut self, asked: Option<(Query, SocketAddr)>) {
        self.told_ms = self.fabric.unix_ms().max(self.told_ms + 1);
        let presence = Presence {
            port: self.fabric.port(),
            datagram_port: self.config.port,
            may_accept: self.fabric.may_accept(),
            echo: asked.map_or(0, |(query, _)| query.nonce),
            at_ms: self.told_ms,
        };
        let Some(signed) = self.fabric.sign(presence.to_bytes()) else { return };
        let datagram = wire::presence(&signed);
        let Some(sockets) = &self.sockets else { return };
        match asked {
            Some((_, from)) => sockets.send(&datagram, from).await,
            None => sockets.send_to_all(&datagram).await,
        }
    }

    async fn search(&mut self, now: Duration) {
        for (search, peers, _) in &mut self.searches {
            let (Some(query), Some(sockets)) = (search.poll_query(now), &self.sockets) else {
                continue;
            };
            let datagram = wire::query(&query);
            if peers.is_empty() {
                sockets.send_to_all(&datagram).await;
            }
            for peer in peers.iter() {
                sockets.send(&datagram, *peer).await;
            }
        }
        let (over, on) = std::mem::take(&mut self.searches)
            .into_iter()
            .partition(|(search, ..)| search.is_over(now));
        self.searches = on;
        for (search, _, found) in over {
            // Whoever asked may have gone.
            let _ = found.send(search.found());
        }
    }
}

async fn receive(sockets: &Option<Sockets>) -> (Vec<u8>, SocketAddr) {
    match sockets {
        Some(sockets) => sockets.receive().await,
        None => std::future::pending().await,
    }
}

/// How long the machine has slept since it was started: what CLOCK_BOOTTIME counts and
/// CLOCK_MONOTONIC does not (clock_gettime(2)).
fn asleep() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    read(ClockId::CLOCK_BOOTTIME).saturating_sub(read(ClockId::CLOCK_MONOTONIC))
}

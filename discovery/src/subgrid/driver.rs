//! The task itself: feeds the machines and does what they want done.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::complaints::Complaints;
use super::listing::{Listing, Listings};
use super::part::{PLACEMENT, Part, keeps, name, placement, shard_name};
use super::query_driver::Question;
use super::questions::Origin;
use super::{AVAILABILITY, Entry, NotDone, Order, Status};
use crate::driver::{Discovery, Posted};
use crate::fabric::{Fabric, Keep};
use crate::lanes::Lanes;
use crate::machine::group::{self, Command as GroupCommand, Group, Key, Op, Standing};
use crate::machine::query;
use crate::machine::registry::description::Attributes;
use crate::machine::registry::{
    self, Command as RegistryCommand, Member, Message, Settings, SuperPeer,
};
use crate::wire::MAX_PARCEL;

/// How often it is looked who lives.
const LOOK: Duration = Duration::from_millis(500);
/// Parcels on their way to one member, at most; more are lost.
pub const MAX_PARCELS: usize = 32;
/// Messages of queries that wait to be handled: of one member, and of all nodes outside.
const MAX_HEARD: usize = 16;
const MAX_HEARD_OUTSIDE: usize = 256;
/// After the disk has failed.
const TRY_AGAIN: Duration = Duration::from_secs(10);
/// Of a member that nobody knows better.
const USUAL: u16 = 500;

/// What members send each other here.
#[derive(Debug, Serialize, Deserialize)]
pub enum Parcel {
    Group(Vec<u8>),
    Registry(Vec<u8>),
    Query(Vec<u8>),
    /// From a super-peer that was deposed to its successor: its registry.
    Handover(Vec<u8>),
}

pub struct Driver {
    own: NodeId,
    fabric: Arc<dyn Fabric>,
    discovery: Discovery,
    began: Duration,
    attributes: Option<Attributes>,
    part: Option<Part>,
    no_part_until: Duration,
    next_look: Duration,
    standings: BTreeMap<NodeId, Standing>,
    lanes: Lanes,
    complaints: Complaints,
    listings: Listings,
    questions: mpsc::Sender<Question>,
    heard: Lanes,
    heard_outside: Arc<Semaphore>,
    told: watch::Sender<Status>,
}

impl Driver {
    /// Takes part in nothing yet.
    pub fn new(
        fabric: Arc<dyn Fabric>,
        discovery: Discovery,
        questions: mpsc::Sender<Question>,
        told: watch::Sender<Status>,
    ) -> Self {
        Self {
            own: fabric.node(),
            fabric,
            discovery,
            began: boot_clock(),
            attributes: None,
            part: None,
            no_part_until: Duration::ZERO,
            next_look: Duration::ZERO,
            standings: BTreeMap::new(),
            lanes: Lanes::new(MAX_PARCELS),
            complaints: Complaints::default(),
            listings: Listings::default(),
            questions,
            heard: Lanes::new(MAX_HEARD),
            heard_outside: Arc::new(Semaphore::new(MAX_HEARD_OUTSIDE)),
            told,
        }
    }

    /// Until the node shuts down.
    pub async fn run(mut self, mut ordered: mpsc::Receiver<Order>, mut posted: Posted) {
        let mut changes = self.fabric.changes();
        let mut seen = self.discovery.changes();
        loop {
            let now = self.now();
            if now >= self.next_look {
                self.next_look = now + LOOK;
                self.look().await;
            }
            self.act().await;
            let due = self.next_timeout().saturating_sub(self.now());
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(order) => self.obey(order),
                    // The node is shutting down.
                    None => return,
                },
                posted = posted.recv() => match posted {
                    Some(parcel) => {
                        let (from, bytes) = parcel.take();
                        self.open(from, &bytes, self.now());
                    }
                    None => return,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.next_look = Duration::ZERO,
                    Err(_) => return,
                },
                changed = seen.changed() => match changed {
                    Ok(()) => self.next_look = Duration::ZERO,
                    Err(_) => return,
                },
                () = sleep_until(Instant::now() + due) => {}
            }
        }
    }

    /// Goes on while the machine sleeps: leases are counted by it.
    fn now(&self) -> Duration {
        boot_clock().saturating_sub(self.began)
    }

    fn next_timeout(&self) -> Duration {
        let Some(part) = &self.part else { return self.next_look };
        let super_peer = part.super_peer.as_ref().and_then(SuperPeer::poll_timeout);
        [Some(part.group.poll_timeout()), part.member.poll_timeout(), super_peer]
            .into_iter()
            .flatten()
            .fold(self.next_look, Duration::min)
    }

    /// Sees to it that this node takes part in the sub-grid that it is a member of, and who lives.
    async fn look(&mut self) {
        let subgrid = self.fabric.subgrid();
        if let Some(part) = &self.part
            && Some(part.subgrid) != subgrid
        {
            // Whoever leaves comes back as somebody new.
            let left = name(part.subgrid, "");
            self.part = None;
            self.keep(vec![Keep::RemoveAll(left)]).await;
        }
        let now = self.now();
        let members = self.fabric.members();
        let of_members: BTreeSet<NodeId> = members.iter().copied().collect();
        self.lanes.retain(|node| of_members.contains(node));
        self.heard.retain(|node| of_members.contains(node));
        self.complaints.handle_timeout(now);
        if let (None, Some(subgrid)) = (&self.part, subgrid)
            && now >= self.no_part_until
        {
            self.begin(subgrid).await;
        }
        let Some(part) = &mut self.part else { return };
        let mut known = BTreeMap::new();
        if let Some(super_peer) = &part.super_peer {
            for entry in super_peer.entries(now) {
                let text = entry.description.attributes.get(AVAILABILITY);
                known.insert(entry.member, text.and_then(|it| it.parse().ok()).unwrap_or(USUAL));
            }
        }
        let mut standings = BTreeMap::new();
        for node in members.into_iter().filter(|node| *node != self.own) {
            let seen = self.discovery.seen(node);
            let alive = seen.is_some_and(|seen| seen.up);
            let since = seen.map_or(now, |seen| now.saturating_sub(seen.since));
            let availability = known.get(&node).copied().unwrap_or(USUAL);
            standings.insert(node, Standing { alive, since, availability });
        }
        if let Some(super_peer) = &mut part.super_peer {
            if !standings.keys().eq(self.standings.keys()) {
                super_peer.handle_roster(standings.keys().copied(), now);
            }
            for (node, standing) in &standings {
                match standing.alive {
                    true => super_peer.handle_up(*node, now),
                    false => super_peer.handle_down(*node, now),
                }
            }
        }
        let up = standings.iter().filter(|(_, standing)| standing.alive).map(|(node, _)| *node);
        self.listings.handle_up(up.chain([self.own]).collect());
        self.standings.clone_from(&standings);
        let removed = self.fabric.removed().into_iter().collect();
        part.group.handle_members(standings, removed, self.fabric.availability(), now);
    }

    async fn begin(&mut self, subgrid: SubgridId) {
        let found = match self.fabric.kept(&name(subgrid, "")).await {
            Ok(found) => found,
            Err(error) => {
                tracing::error!(error, "what is kept of the sub-grid's group cannot be read");
                self.no_part_until = self.now() + TRY_AGAIN;
                return;
            }
        };
        let mut kept = group::Kept::default();
        let mut shards = Vec::new();
        for (key, bytes) in found {
            let Some(rest) = key.strip_prefix(&name(subgrid, "")) else { continue };
            if let Some(key) = rest.strip_prefix("group/").and_then(|key| key.parse::<Key>().ok()) {
                kept.0.insert(key, bytes);
            } else if rest.starts_with("shard/") {
                // One that was damaged is as good as lost.
                shards.extend(registry::Kept::decode(&bytes));
            }
        }
        let now = self.now();
        let (founder, boot) = (self.fabric.is_founder(), self.fabric.unix_ms());
        let mut member = Member::new(boot, shards, rand::random());
        if let Some(attributes) = self.attributes.clone() {
            member.handle_attributes(attributes, now);
        }
        self.standings.clear();
        self.part = Some(Part {
            subgrid,
            group: Group::new(self.own, founder, &kept, rand::random(), now),
            member,
            super_peer: None,
            handover: None,
            handovers: HashMap::new(),
            placed: group::Stamp::default(),
            waiting: HashMap::new(),
        });
    }

    fn obey(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Parcel { from, bytes } => self.open(from, &bytes, now),
            Order::Abroad { from, bytes } => match query::Message::read(&bytes) {
                // Only members may ask.
                None | Some(query::Message::Ask(_)) => {}
                Some(message) => self.hear(from, message, Origin::Outside, now),
            },
            Order::Home(message) => self.hear(self.own, *message, Origin::Inside, now),
            Order::Listing(answer) => {
                // Whoever asked may have gone.
                let _ = answer.send(self.listing(now));
            }
            Order::Vos(vos) => self.listings.handle_vos(vos),
            Order::Describe(attributes) => {
                if let Some(part) = &mut self.part {
                    part.member.handle_attributes(attributes.clone(), now);
                }
                self.attributes = Some(attributes);
            }
            Order::Propose { op, done } => {
                let proposed = match &mut self.part {
                    Some(part) => part.group.propose(op, now).map_err(NotDone::from),
                    None => Err(NotDone::NoGroup),
                };
                match (proposed, &mut self.part) {
                    (Ok(ticket), Some(part)) => drop(part.waiting.insert(ticket, done)),
                    // Whoever asked may have gone.
                    (Err(error), _) => drop(done.send(Err(error))),
                    (Ok(_), None) => {}
                }
            }
            Order::Entries(answer) => {
                let _ = answer.send(self.entries(now));
            }
            Order::Value { name, answer } => {
                let state = self.part.as_ref().and_then(|part| part.group.state());
                let value =
                    |state: &group::State| (state.stamp(name), state.get(name).map(<[u8]>::to_vec));
                let _ = answer.send(state.map(value));
            }
            Order::State(answer) => {
                let state = self.part.as_ref().and_then(|part| part.group.state().cloned());
                let _ = answer.send(state);
            }
            Order::Lease(answer) => {
                let lease = self.part.as_ref().and_then(|part| part.lease(now, self.began));
                let _ = answer.send(lease);
            }
        }
    }

    fn open(&mut self, from: NodeId, bytes: &[u8], now: Duration) {
        let Some(part) = &mut self.part else { return };
        match postcard::from_bytes(bytes) {
            Ok(Parcel::Group(payload)) => part.group.handle_message(from, &payload, now),
            Ok(Parcel::Registry(payload)) => match Message::decode(&payload) {
                Ok(message) => part.hear(from, message, now),
                Err(_) => {
                    if let Some(super_peer) = &mut part.super_peer {
                        super_peer.handle_malformed(from, now);
                    }
                }
            },
            Ok(Parcel::Handover(payload)) => part.take_over(from, &payload, now),
            Ok(Parcel::Query(payload)) => match query::Message::read(&payload) {
                Some(message) => self.hear(from, message, Origin::Inside, now),
                None => self.complain(from, "broke the protocol: a query that is none".to_owned()),
            },
            Err(_) => self.complain(from, "broke the protocol: a parcel that is none".to_owned()),
        }
    }

    /// Hands a message of a query to the task that has its machines, with what is registered when it
    /// is about that. Without a place it is lost, and asked again.
    fn hear(&mut self, from: NodeId, message: query::Message, origin: Origin, now: Duration) {
        let place = match origin {
            Origin::Inside => self.heard.place(from),
            Origin::Outside => self.heard_outside.clone().try_acquire_owned().ok(),
        };
        if place.is_none() {
            return;
        }
        let listing = match message {
            query::Message::Ask(_) | query::Message::Forward(..) => match self.listing(now) {
                None => return,
                some => some,
            },
            _ => None,
        };
        let message = Box::new(message);
        let _ = self.questions.try_send(Question::Heard { from, message, origin, listing, place });
    }

    fn entries(&self, now: Duration) -> Option<Vec<Entry>> {
        let super_peer = self.part.as_ref()?.super_peer.as_ref()?;
        let entry = |it: registry::Registration<'_>| Entry {
            node: it.member,
            attributes: it.description.attributes.clone(),
            age: it.age,
            confirmed: it.confirmed,
        };
        Some(super_peer.entries(now).map(entry).collect())
    }

    /// Which members are up, and what they say; `None` where this node is not the super-peer.
    fn listing(&mut self, now: Duration) -> Option<Arc<Listing>> {
        let super_peer = self.part.as_ref()?.super_peer.as_ref()?;
        let (revision, entries) = (super_peer.revision(), super_peer.entries(now));
        Some(self.listings.listing(revision, entries, now))
    }

    /// Does what is due and what the machines want done.
    async fn act(&mut self) {
        let now = self.now();
        let Some(part) = &mut self.part else { return self.tell() };
        if part.group.poll_timeout() <= now {
            part.group.handle_timeout(now);
        }
        if part.member.poll_timeout().is_some_and(|due| due <= now) {
            part.member.handle_timeout(now);
        }
        if let Some(super_peer) = &mut part.super_peer
            && super_peer.poll_timeout().is_some_and(|due| due <= now)
        {
            super_peer.handle_timeout(now);
        }
        while let Some(part) = &mut self.part {
            part.follow_placement(now);
            if let Some(command) = part.group.poll_command() {
                self.do_for_group(command).await;
                continue;
            }
            let own = part.member.poll_command();
            let super_peer = part.super_peer.as_mut();
            let Some(command) = own.or_else(|| super_peer.and_then(SuperPeer::poll_command)) else {
                break;
            };
            self.do_for_registry(command).await;
        }
        self.tell();
    }

    async fn do_for_group(&mut self, command: GroupCommand) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        match command {
            GroupCommand::Save(changes) => {
                let subgrid = part.subgrid;
                let changes = changes.into_iter().flat_map(|change| keeps(subgrid, change));
                self.keep(changes.collect()).await;
            }
            GroupCommand::Send { to, payload, repeats: true } => {
                self.post(to, &Parcel::Group(payload));
            }
            GroupCommand::Send { to, payload, repeats: false } => {
                self.send(to, &Parcel::Group(payload));
            }
            GroupCommand::Led(led) => {
                let led = led.map(|led| (led.node, led.mandate));
                match led {
                    Some((node, mandate)) => {
                        tracing::info!(node = %node.short(), %mandate, "super-peer");
                    }
                    None => tracing::info!("no super-peer is known"),
                }
                part.member.handle_super_peer(led, now);
                self.listings.handle_registry(now);
                let handover = part.hand_over(led.map(|(node, _)| node), self.own);
                part.super_peer = led.filter(|(node, _)| *node == self.own).map(|(_, mandate)| {
                    let placement = part.group.state().and_then(placement);
                    let mut new =
                        SuperPeer::new(self.own, mandate, Settings::default(), placement, now);
                    new.handle_roster(self.standings.keys().copied(), now);
                    for (node, standing) in &self.standings {
                        if standing.alive {
                            new.handle_up(*node, now);
                        }
                    }
                    new
                });
                if let Some((successor, snapshot)) = handover {
                    self.send(successor, &Parcel::Handover(snapshot));
                }
            }
            GroupCommand::Done { ticket, outcome } => {
                if let Some(done) = part.waiting.remove(&ticket) {
                    // Whoever asked may have gone.
                    let _ = done.send(outcome.ok_or(NotDone::Unknown));
                }
            }
            GroupCommand::Complain { member, what } => {
                self.complain(member, format!("broke the protocol: {what}"));
            }
        }
    }

    async fn do_for_registry(&mut self, command: RegistryCommand) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        match command {
            RegistryCommand::Send { to, message } if to == self.own => part.hear(to, message, now),
            RegistryCommand::Send { to, message } => {
                self.send(to, &Parcel::Registry(message.encode()));
            }
            RegistryCommand::Complain { member, what } => self.complain(member, what.to_string()),
            RegistryCommand::Commit(bytes) => {
                let name = PLACEMENT.to_owned();
                let op = Op::Set { name, expect: None, bytes: Some(bytes), sure: false };
                // When nothing comes of it, the archive asks again.
                if let Err(error) = part.group.propose(op, now) {
                    tracing::debug!(%error, "where the registry lies is not committed now");
                }
            }
            RegistryCommand::Persist(kept) => {
                let (shard, subgrid) = (kept.shard, part.subgrid);
                let put = Keep::Put(shard_name(subgrid, shard), kept.encode());
                let durable = match self.fabric.keep(vec![put]).await {
                    Ok(()) => true,
                    Err(error) => {
                        tracing::warn!(error, "a shard of the registry cannot be kept");
                        false
                    }
                };
                if let Some(part) = &mut self.part {
                    part.member.handle_persisted(shard, durable);
                }
            }
            RegistryCommand::Discard(shard) => {
                let remove = Keep::Remove(shard_name(part.subgrid, shard));
                if let Err(error) = self.fabric.keep(vec![remove]).await {
                    tracing::warn!(error, "an old shard of the registry stays on the disk");
                }
            }
        }
    }

    /// Brings changes to the disk. Where that fails, this node takes no part for a while: it must
    /// not tell what it may forget.
    async fn keep(&mut self, changes: Vec<Keep>) {
        if let Err(error) = self.fabric.keep(changes).await {
            tracing::error!(
                error,
                "the disk fails: this node leaves its sub-grid's group and tries again in 10 s"
            );
            self.part = None;
            self.no_part_until = self.now() + TRY_AGAIN;
        }
    }

    /// Sends what may be lost.
    fn post(&mut self, to: NodeId, parcel: &Parcel) {
        let Ok(bytes) = postcard::to_stdvec(parcel) else { return };
        if bytes.len() > MAX_PARCEL {
            self.deliver(to, bytes);
        } else if let Err(bytes) = self.discovery.post(to, bytes) {
            self.deliver(to, bytes);
        }
    }

    fn send(&mut self, to: NodeId, parcel: &Parcel) {
        if let Ok(bytes) = postcard::to_stdvec(parcel) {
            self.deliver(to, bytes);
        }
    }

    fn deliver(&mut self, to: NodeId, bytes: Vec<u8>) {
        let Some(place) = self.lanes.place(to) else { return };
        let fabric = self.fabric.clone();
        tokio::spawn(async move {
            fabric.deliver(to, bytes).await;
            drop(place);
        });
    }

    fn complain(&mut self, member: NodeId, what: String) {
        let now = self.now();
        self.complaints.complain(member, what, now);
    }

    fn tell(&self) {
        let status = self.part.as_ref().map(|part| part.status(self.now())).unwrap_or_default();
        self.told.send_if_modified(|told| {
            let differs = *told != status;
            *told = status;
            differs
        });
    }
}

/// What CLOCK_BOOTTIME says: it goes on while the machine sleeps (clock_gettime(2)).
pub fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

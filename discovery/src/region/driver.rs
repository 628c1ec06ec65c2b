//! The task itself: takes part while this node is super-peer, feeds the machines and does what they
//! want done.

mod keep;
mod mail;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::letter::{Letter, Parcel};
use super::office::Office;
use super::part::Part;
use super::record::{self, CACHE, CHARTER, GROUP, Record, SEATS, SITE};
use super::zone::{Found, Search, now as since_1970};
use super::{Abroad, Membership, Order, Reach, RegionConfig, Seat};
use crate::dns::RegionCache;
use crate::machine::Mandate;
use crate::machine::group::{Op, Stamp};
use crate::machine::query::{self, RegionLink};
use crate::machine::region::assembly::{Assembly, Command};
use crate::machine::region::report::Reporter;
use crate::subgrid::{SubGrid, boot_clock};
use crate::uri::GridUri;
use mail::{MAX_LEARNING, MAX_LETTERS};

/// How often it is looked whether this node is super-peer, and what has changed of it.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is added up what the members have.
const SUM: Duration = Duration::from_secs(5);
/// How often the DNS is asked while no region-peer is known.
const SEARCH: Duration = Duration::from_secs(15);
/// Where sites are is kept no more often.
const REMEMBER: Duration = Duration::from_secs(10);
/// After the group could not keep something.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// The same complaint about the same sub-grid is made once in this time.
const COMPLAIN_AGAIN: Duration = Duration::from_secs(60);
const MAX_COMPLAINTS: usize = 256;

pub struct Driver {
    config: RegionConfig,
    abroad: Arc<dyn Abroad>,
    subgrid: SubGrid,
    part: Option<Part>,
    no_part_until: Duration,
    next_look: Duration,
    next_sum: Duration,
    linked: Option<RegionLink>,
    link: watch::Sender<Option<Reach>>,
    lanes: HashMap<NodeId, Arc<Semaphore>>,
    learning: Arc<Semaphore>,
    complaints: HashMap<(SubgridId, String), Duration>,
    found: Finds<()>,
    neighbours: Finds<GridUri>,
    began: Duration,
}

/// What searches in the DNS come to.
struct Finds<T> {
    tell: mpsc::Sender<(T, Result<Found, String>)>,
    told: mpsc::Receiver<(T, Result<Found, String>)>,
}

impl<T> Finds<T> {
    fn new() -> Self {
        let (tell, told) = mpsc::channel(16);
        Self { tell, told }
    }
}

impl Driver {
    pub fn new(
        config: RegionConfig,
        abroad: Arc<dyn Abroad>,
        subgrid: SubGrid,
        link: watch::Sender<Option<Reach>>,
    ) -> Self {
        Self {
            config,
            abroad,
            subgrid,
            part: None,
            no_part_until: Duration::ZERO,
            next_look: Duration::ZERO,
            next_sum: Duration::ZERO,
            linked: None,
            link,
            lanes: HashMap::new(),
            learning: Arc::new(Semaphore::new(MAX_LEARNING)),
            complaints: HashMap::new(),
            found: Finds::new(),
            neighbours: Finds::new(),
            began: boot_clock(),
        }
    }

    /// Until the node shuts down.
    pub async fn run(mut self, mut ordered: mpsc::Receiver<Order>) {
        let mut changes = self.subgrid.changes();
        loop {
            if self.now() >= self.next_look {
                self.look().await;
            }
            self.act().await;
            let due = self.next_timeout().saturating_sub(self.now());
            tokio::select! {
                order = ordered.recv() => match order {
                    Some(order) => self.obey(order).await,
                    // The node is shutting down.
                    None => return,
                },
                changed = changes.changed() => match changed {
                    Ok(()) => self.next_look = Duration::ZERO,
                    Err(_) => return,
                },
                Some(((), found)) = self.found.told.recv() => self.take_found(found),
                Some((uri, found)) = self.neighbours.told.recv() => {
                    if let Some(office) = self.part.as_mut().and_then(|part| part.office.as_mut()) {
                        office.neighbours.handle_found(&uri, found, &*self.abroad);
                    }
                }
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
        let catalogue = part.office.as_ref().and_then(|office| office.catalogue.poll_timeout());
        [Some(part.assembly.poll_timeout()), part.reporter.poll_timeout(), catalogue]
            .into_iter()
            .flatten()
            .fold(self.next_look, Duration::min)
    }

    /// Sees to it that this node takes part while it is super-peer, and with what it says of itself.
    async fn look(&mut self) {
        self.next_look = self.now() + LOOK;
        let now = self.now();
        self.complaints.retain(|_, at| *at + COMPLAIN_AGAIN > now);
        let idle = |lane: &Arc<Semaphore>| lane.available_permits() == MAX_LETTERS;
        self.lanes.retain(|_, lane| !idle(lane));
        let status = self.subgrid.status();
        let mandate = status.super_peer.map(|(_, mandate)| mandate).filter(|_| status.decides);
        let current = self.part.as_ref().map(|part| part.mandate);
        if current.is_some() && current != mandate {
            self.part = None;
        }
        let (Some(mandate), Some(subgrid)) = (mandate, self.abroad.subgrid()) else {
            return self.relink().await;
        };
        let Some((stamp, bytes)) = self.subgrid.value(SITE).await else {
            return self.relink().await;
        };
        if self.part.as_ref().is_some_and(|part| part.record_stamp != stamp) {
            self.part = None;
        }
        if self.part.is_none()
            && now >= self.no_part_until
            && let Some(record) = bytes.as_deref().and_then(Record::read)
        {
            self.begin(subgrid, mandate, record, stamp).await;
        }
        self.care().await;
        self.tell_organisations();
        self.relink().await;
    }

    async fn begin(&mut self, subgrid: SubgridId, mandate: Mandate, record: Record, stamp: Stamp) {
        let mut values = HashMap::new();
        for name in [CHARTER, GROUP, SEATS, CACHE] {
            let Some(value) = self.subgrid.value(name).await else { return };
            values.insert(name, value);
        }
        let bytes =
            |name| values.get(name).and_then(|(_, bytes)| bytes.clone()).unwrap_or_default();
        let now = self.now();
        let own = Seat {
            subgrid,
            node: self.abroad.node(),
            mandate,
            reach: self.abroad.reach().await,
            availability: self.availability(),
        };
        let kept = record::read_group(&bytes(GROUP), subgrid, &record.uri);
        let seats = record::read_seats(&bytes(SEATS));
        let assembly = Assembly::new(own, record.founded, kept.clone(), seats, rand::random(), now);
        let mut cache: RegionCache = postcard::from_bytes(&bytes(CACHE)).unwrap_or_default();
        // Another region was known before.
        if cache.pin(&record.uri, record.key).is_err() {
            cache = RegionCache::default();
            let _ = cache.pin(&record.uri, record.key);
        }
        let mut part = Part {
            subgrid,
            mandate,
            record_stamp: stamp,
            charter: None,
            assembly,
            kept,
            kept_stamp: values.get(GROUP).map(|(stamp, _)| *stamp).unwrap_or_default(),
            reporter: Reporter::new(subgrid, mandate, rand::random(), now),
            office: None,
            hints: Default::default(),
            cache,
            is_told_out: false,
            found: String::new(),
            last_found: None,
            search: None,
            next_search: now,
            told: BTreeSet::new(),
            next_tell: now,
            tell_anew: now,
            seats: None,
            next_remember: now,
            record,
        };
        part.assembly.handle_registration(part.record.registration.clone());
        let charter = bytes(CHARTER);
        if !charter.is_empty() {
            match self.abroad.charter(&charter) {
                Ok(charter) if part.is_newer(&charter, &*self.abroad) == Ok(true) => {
                    part.follow(charter, now)
                }
                Ok(_) => {}
                Err(error) => tracing::warn!(error, "the charter that was kept cannot be used"),
            }
        }
        tracing::info!(region = %part.record.uri, "this node speaks for its sub-grid there");
        self.part = Some(part);
        self.next_sum = now;
    }

    /// How much this super-peer can be counted on as region-peer: one that cannot write the region's
    /// entry is taken when there is no other.
    fn availability(&self) -> u16 {
        let own = self.abroad.availability().min(1000);
        if self.config.key_file.is_some() { own } else { own / 2 }
    }

    /// What is looked after from time to time.
    async fn care(&mut self) {
        if self.part.is_none() {
            return;
        }
        let now = self.now();
        let (reach, addresses) = (self.abroad.reach().await, self.abroad.addresses().await);
        let availability = self.availability();
        if now >= self.next_sum {
            self.next_sum = now + SUM;
            let summary = self.subgrid.summary().await;
            if let (Some(part), Some(summary)) = (&mut self.part, summary) {
                part.reporter.handle_summary(summary, now);
            }
        }
        let Some(part) = &mut self.part else { return };
        part.assembly.handle_own(reach, availability);
        part.reporter.handle_coordinate(part.assembly.coordinate());
        if part.membership() == Membership::PutOut && !part.is_told_out {
            part.is_told_out = true;
            tracing::warn!(region = %part.record.uri, "this sub-grid is no site of it any more");
        }
        if let (Some(office), Some(charter)) = (&mut part.office, &part.charter) {
            office.handle_addresses(addresses);
            office.publish(&self.config, charter, self.abroad.node(), self.abroad.port());
            office.neighbours.search(&self.config, &self.abroad, now);
        }
        let alone = part.assembly.region_peer().is_none();
        let busy = part.search.as_ref().is_some_and(|search| !search.is_over());
        if alone && !busy && now >= part.next_search {
            part.next_search = now + SEARCH;
            part.search = Some(Search::begin(
                self.config.clone(),
                part.record.uri.clone(),
                part.cache.clone(),
                self.abroad.clone(),
                (),
                self.found.tell.clone(),
            ));
        }
        if now >= part.next_remember
            && let Some(seats) = part.seats.take()
        {
            part.next_remember = now + REMEMBER;
            let bytes = postcard::to_stdvec(&seats).unwrap_or_default();
            self.set_unsure(SEATS, bytes);
        }
    }

    fn take_found(&mut self, found: Result<Found, String>) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        match found {
            Ok(found) => {
                part.found = found.words();
                let (node, addrs) =
                    (found.current.entry.node(), self.abroad.written(&found.addresses));
                part.last_found = Some(found);
                part.assembly.handle_beacon(Reach { node, subgrid: None, addrs }, now);
            }
            Err(error) => {
                if part.found != error {
                    tracing::warn!(region = %part.record.uri, "nobody is found there: {error}");
                }
                part.found = error;
            }
        }
    }

    /// Tells the sub-grid's part who the region-peer is.
    async fn relink(&mut self) {
        // What a site still shows is its wish to go.
        let leaves = |part: &&Part| {
            part.membership() != Membership::Site || !part.record.registration.is_empty()
        };
        let peer = self.part.as_ref().and_then(|part| part.assembly.region_peer());
        let link = match (&self.part, peer) {
            (None, _) => RegionLink::Alone,
            (Some(part), _) if leaves(&part) => RegionLink::Alone,
            (Some(_), None) => RegionLink::Unknown,
            (Some(_), Some((seat, _))) => RegionLink::Peer(seat.node),
        };
        let reach = peer.map(|(seat, _)| seat.to_reach());
        let reach = reach.filter(|reach| reach.node != self.abroad.node());
        self.link.send_if_modified(|known| {
            let differs = *known != reach;
            *known = reach;
            differs
        });
        if self.linked != Some(link) {
            self.linked = Some(link);
            let near = self.part.as_ref().map(|part| part.assembly.coordinate());
            self.subgrid.link_region(link, near).await;
        }
    }

    async fn obey(&mut self, order: Order) {
        match order {
            Order::Parcel { from, subgrid, parcel: Parcel::Letter(letter), .. } => {
                self.open(from, subgrid, letter).await;
            }
            Order::Parcel { from, subgrid, parcel: Parcel::Question(question), answer } => {
                let _ = answer.send(self.answer(from, subgrid, question));
            }
            Order::Query { to, message } => self.pass_query(self.abroad.node(), to, message),
            Order::Charter { bytes, done } => {
                let adopted = self.adopt(&bytes).await.and_then(|taken| match taken {
                    true => Ok(()),
                    false => Err("another charter of the region counts over it, which was signed \
                                  elsewhere: look at `phantom region list`, and try again"
                        .to_owned()),
                });
                let _ = done.send(adopted);
            }
            Order::View(answer) => {
                let now = self.now();
                let view = self.part.as_ref().map(|part| part.view(&*self.abroad, now));
                self.see(view, answer);
            }
            Order::Look => self.next_look = Duration::ZERO,
        }
    }

    /// Does what is due and what the machines want done.
    async fn act(&mut self) {
        let now = self.now();
        if let Some(part) = &mut self.part {
            if part.assembly.poll_timeout() <= now {
                part.assembly.handle_timeout(now);
            }
            if let Some(office) = &mut part.office
                && office.catalogue.poll_timeout().is_some_and(|due| due <= now)
            {
                office.catalogue.handle_timeout(now);
            }
            if let Some((to, report)) = part.reporter.handle_timeout(now) {
                self.report(to, &report, now);
            }
        }
        while let Some(command) = self.part.as_mut().and_then(|part| part.assembly.poll_command()) {
            self.carry_out(command).await;
        }
        self.hold_office();
        self.tell_neighbours();
        loop {
            let office = self.part.as_mut().and_then(|part| part.office.as_mut());
            match office.and_then(|office| office.queries.poll_command()) {
                Some(query::Command::Send { to, message }) => {
                    self.pass_query(self.abroad.node(), to, message.to_bytes());
                }
                Some(query::Command::Flooding { node, dropped }) => {
                    tracing::warn!(node = %node.short(), dropped, "a super-peer asks too often");
                }
                Some(query::Command::Done(_)) => {}
                None => return,
            }
        }
    }

    async fn carry_out(&mut self, command: Command) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        match command {
            Command::Save(changes) => self.save(changes).await,
            Command::Forget => {
                part.kept = Default::default();
                let (name, expect) = (GROUP.to_owned(), Some(part.kept_stamp));
                self.set(Op::Set { name, expect, bytes: None, sure: true }).await;
            }
            Command::Send { to, word } => self.post_to(to, Letter::Word(word)),
            Command::Charter { to } => {
                if let Some(charter) = &part.charter {
                    let bytes = charter.bytes.clone();
                    self.post_to(to, Letter::Charter(bytes));
                }
            }
            Command::Led(led) => {
                let region = &part.record.uri;
                let seat = part.assembly.region_peer().map(|(seat, _)| seat.clone());
                match (&seat, led) {
                    (Some(seat), Some(led)) => tracing::info!(
                        %region, subgrid = %led.subgrid.short(), node = %seat.node.short(),
                        mandate = %led.mandate, "region-peer"
                    ),
                    _ => tracing::info!(%region, "no region-peer is known"),
                }
                part.reporter.handle_region_peer(seat.map(|seat| seat.node), now);
                self.confirm();
                self.relink().await;
            }
            Command::Remember(seats) => part.seats = Some(seats),
            Command::Complain { subgrid, what } => self.complain(subgrid, what.to_owned()),
        }
    }

    /// The region-peer has an office, nobody else.
    fn hold_office(&mut self) {
        let now = self.now();
        let Some(part) = &mut self.part else { return };
        let mandate = part.assembly.region_peer().map(|(_, mandate)| mandate);
        let decides = part.assembly.may_decide(now);
        if let Some(office) = &part.office
            && (!decides || Some(office.mandate) != mandate)
        {
            part.office = None;
        }
        if let (None, true, Some(mandate), Some(charter)) =
            (&part.office, decides, mandate, &part.charter)
        {
            let found = self.neighbours.tell.clone();
            part.office =
                Some(Office::new(&self.config, &self.abroad, charter, mandate, found, now));
            // The entry is written at once.
            self.next_look = Duration::ZERO;
        }
    }

    /// Whoever was found at the region's name answers for it: kept for when the DNS does not tell.
    fn confirm(&mut self) {
        let Some(part) = &mut self.part else { return };
        let (Some((seat, at)), Some(found)) = (part.assembly.region_peer(), &part.last_found)
        else {
            return;
        };
        let entry = &found.current.entry;
        if entry.node() != seat.node {
            return;
        }
        match part.cache.confirm(&part.record.uri, entry, at, &*self.abroad, since_1970()) {
            Ok(()) => {
                let bytes = postcard::to_stdvec(&part.cache).unwrap_or_default();
                self.set_unsure(CACHE, bytes);
            }
            Err(error) => tracing::debug!(%error, "the region's entry is not kept"),
        }
    }

    fn complain(&mut self, subgrid: SubgridId, what: String) {
        let now = self.now();
        let key = (subgrid, what);
        if self.complaints.len() < MAX_COMPLAINTS && !self.complaints.contains_key(&key) {
            tracing::warn!(subgrid = %subgrid.short(), "a sub-grid {}", key.1);
            self.complaints.insert(key, now);
        }
    }
}

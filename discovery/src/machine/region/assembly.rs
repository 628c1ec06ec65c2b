//! The super-peers of a region's sites: who answers for which site, and who of them for the region.
//!
//! ```text
//!  super-peer of a site ── Hail, every 2 s ──▶ region-peer, or whoever may know it
//!                       ◀── Welcome: the directory, who the region-peer is ──
//!  sites elect the region-peer as members elect a super-peer: a group of sites
//! ```
//!
//! What holds:
//! - A member of the group is a *site*, whoever is its super-peer at the moment: what the site has
//!   promised is kept in its sub-grid's own group ([`Command::Save`]), so a new super-peer goes on with
//!   it as a node does after a restart. A super-peer takes part only while its sub-grid's lease lets it
//!   decide, so two nodes never speak for one site.
//! - For a site speaks the node with the latest mandate of its sub-grid that was heard and is not
//!   silent; what others say in its name is dropped. What a site says of another counts only from the
//!   region-peer, or of one that was not heard itself. A member that was super-peer before tells who
//!   is now ([`Word::Moved`]).
//! - Only sites of the charter take part; those that were in it count as agreeing in the group, as
//!   members do that were put out of a sub-grid. Who asks to be let in is told where the region-peer is.
//! - What a region's sites tell of each other is bounded by the charter, what strangers do by
//!   [`MAX_ASKING`].

mod message;
mod seats;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub use message::{Hail, MAX_REACH, MAX_REGISTRATION, Reach, Row, Seat, Welcome, Word};
use seats::Seats;

use crate::machine::Mandate;
use crate::machine::coordinates::{Coordinate, Vivaldi};
use crate::machine::group::{Change, Command as GroupCommand, Group, Kept, Standing};

/// How often a super-peer says that it is there.
pub const HAIL: Duration = Duration::from_secs(2);
/// A site that was not heard for so long is taken for gone.
pub const SILENT: Duration = Duration::from_secs(5);
/// How often it is looked who lives.
const LOOK: Duration = Duration::from_millis(500);
/// So many sub-grids that are not of the region are remembered as asking to be let in.
pub const MAX_ASKING: usize = 64;
/// How long who asks to be let in is remembered.
const ASKING: Duration = Duration::from_secs(60);

/// What the charter says, as far as it matters here. Who calls has checked that the region's key has
/// signed it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sites {
    /// Which version.
    pub version: u64,
    /// The sites.
    pub of: BTreeSet<SubgridId>,
}

/// Who answers for the region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RegionPeer {
    /// For which site it answers as well.
    pub subgrid: SubgridId,
    /// In which name.
    pub mandate: Mandate,
}

/// A sub-grid that asks to be let in, or to be let go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asking {
    /// Its super-peer.
    pub seat: Seat,
    /// What it has signed, to be checked by who believes it.
    pub registration: Vec<u8>,
    heard: Duration,
}

/// What the machine wants done, in this order.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Keep this for the site, in its sub-grid's group, before any later command is carried out.
    Save(Vec<Change>),
    /// Keep nothing any more: the site is not of the region.
    Forget,
    /// Send this.
    Send {
        /// Where.
        to: Reach,
        /// What.
        word: Word,
    },
    /// Somebody has an earlier charter: show it this one.
    Charter {
        /// Who.
        to: Reach,
    },
    /// Another site answers for the region, or none does.
    Led(Option<RegionPeer>),
    /// Where sites are has changed: to be remembered for the next super-peer.
    Remember(Vec<Seat>),
    /// A site has sent what no honest one sends.
    Complain {
        /// Which.
        subgrid: SubgridId,
        /// What it did, in words.
        what: &'static str,
    },
}

/// A super-peer's part in its region.
pub struct Assembly {
    own: Seat,
    founder: bool,
    sites: Sites,
    seats: Seats,
    /// Until the charter names the own site there is none.
    group: Option<Group>,
    kept: Kept,
    led: Option<RegionPeer>,
    /// Where somebody of the region may be, by the DNS.
    beacon: Option<Reach>,
    /// What this sub-grid shows while it is not in the charter.
    registration: Vec<u8>,
    asking: BTreeMap<SubgridId, Asking>,
    /// Digest of the directory that was told last.
    told: [u8; 8],
    coordinates: Vivaldi,
    next_hail: Duration,
    next_look: Duration,
    rng: StdRng,
    commands: VecDeque<Command>,
}

/// The site as a member of the group.
fn member(subgrid: SubgridId) -> NodeId {
    NodeId(subgrid.0)
}

fn site(member: NodeId) -> SubgridId {
    SubgridId(member.0)
}

impl Assembly {
    /// The super-peer whose seat `own` is. `founder`: the region was founded from its sub-grid. `kept`
    /// is what was saved for the site, `seats` what was remembered; `seed` is random.
    pub fn new(
        own: Seat,
        founder: bool,
        kept: Kept,
        seats: Vec<Seat>,
        seed: [u8; 32],
        now: Duration,
    ) -> Self {
        let mut rng = StdRng::from_seed(seed);
        let coordinates = Vivaldi::new(rng.random());
        let mut known = Seats::default();
        for seat in seats.into_iter().filter(|seat| seat.subgrid != own.subgrid) {
            known.hear_of(seat);
        }
        Self {
            own,
            founder,
            sites: Sites::default(),
            seats: known,
            group: None,
            kept,
            led: None,
            beacon: None,
            registration: Vec::new(),
            asking: BTreeMap::new(),
            told: [0; 8],
            coordinates,
            next_hail: now,
            next_look: now,
            rng,
            commands: VecDeque::new(),
        }
    }

    /// What the charter that counts says.
    pub fn handle_charter(&mut self, sites: Sites, now: Duration) {
        if sites == self.sites {
            return;
        }
        self.sites = sites;
        self.seats.retain(&self.sites.of);
        if self.is_in() && self.group.is_none() {
            let (own, kept) = (member(self.own.subgrid), std::mem::take(&mut self.kept));
            self.group = Some(Group::new(own, self.founder, &kept, self.rng.random(), now));
        } else if !self.is_in() && self.group.take().is_some() {
            self.commands.push_back(Command::Forget);
            self.lead(None);
        }
        self.next_hail = now;
        self.look(now);
        self.flush(now);
    }

    /// What this sub-grid says while it asks to be let in, or go; nothing when it does not ask.
    pub fn handle_registration(&mut self, registration: Vec<u8>) {
        self.registration = registration;
    }

    /// This super-peer is reached elsewhere, or can be counted on more or less.
    pub fn handle_own(&mut self, reach: Vec<u8>, availability: u16) {
        (self.own.reach, self.own.availability) = (reach, availability);
    }

    /// Somebody of the region may be there.
    pub fn handle_beacon(&mut self, beacon: Reach, now: Duration) {
        if beacon.node != self.own.node {
            self.beacon = Some(beacon);
            self.next_hail = now;
        }
    }

    /// The node `from`, which has proven to be a member of `subgrid`, has sent this.
    pub fn handle_word(&mut self, from: NodeId, subgrid: SubgridId, word: Word, now: Duration) {
        if subgrid == self.own.subgrid {
            return;
        }
        if !word.is_sound() {
            return self.complain(subgrid, "a word beyond all bounds");
        }
        match word {
            Word::Hail(hail) => self.hear_hail(from, subgrid, *hail, now),
            Word::Welcome(welcome) => self.hear_welcome(from, subgrid, *welcome, now),
            Word::Group(payload) => {
                if !self.seats.speaks(subgrid, from) {
                    return;
                }
                self.seats.heard(subgrid, now);
                if let Some(group) = &mut self.group {
                    group.handle_message(member(subgrid), &payload, now);
                }
            }
            Word::Moved(seat) => {
                let may_be = self.sites.version == 0 || self.sites.of.contains(&subgrid);
                if seat.subgrid == subgrid && may_be {
                    self.seats.hear_of(*seat);
                    self.remember();
                }
            }
        }
        self.flush(now);
    }

    fn hear_hail(&mut self, from: NodeId, subgrid: SubgridId, hail: Hail, now: Duration) {
        if hail.seat.node != from || hail.seat.subgrid != subgrid {
            return self.complain(subgrid, "a hail that cannot be true");
        }
        let reach = hail.seat.to_reach();
        let is_in = self.sites.of.contains(&subgrid);
        if is_in && !self.seats.hear_from(hail.seat.clone(), now) {
            return;
        }
        // Who was put out has to hear of it.
        let may_know = is_in || hail.charter > 0 || !hail.registration.is_empty();
        if self.shows_charter(hail.charter) && may_know {
            self.commands.push_back(Command::Charter { to: reach.clone() });
        }
        if !hail.registration.is_empty() {
            // Sites that want to go always have a place: the charter bounds them.
            let is_known = is_in || self.asking.contains_key(&subgrid);
            let room = is_known || self.asking.len() < MAX_ASKING;
            if room {
                let Hail { seat, registration, .. } = hail.clone();
                self.asking.insert(subgrid, Asking { seat, registration, heard: now });
            }
        } else {
            self.asking.remove(&subgrid);
            if !is_in {
                // A stranger: it is told nothing.
                return;
            }
        }
        let rows = self.directory(now);
        let directory = (is_in && digest(&rows) != hail.directory).then_some(rows);
        let word = Welcome {
            seat: self.own.clone(),
            charter: self.sites.version,
            region_peer: self.region_peer().map(|(seat, mandate)| (seat.clone(), mandate)),
            directory,
            coordinate: self.coordinates.coordinate(),
            echo: hail.sent,
        };
        self.send(reach, Word::Welcome(Box::new(word)));
        self.remember();
    }

    fn hear_welcome(&mut self, from: NodeId, subgrid: SubgridId, told: Welcome, now: Duration) {
        if told.seat.node != from || told.seat.subgrid != subgrid {
            return self.complain(subgrid, "a welcome that cannot be true");
        }
        let reach = told.seat.to_reach();
        // Before the first charter everybody may be of the region.
        if self.sites.version > 0 && !self.sites.of.contains(&subgrid) {
            return;
        }
        if !self.seats.hear_from(told.seat, now) {
            return;
        }
        if let Some(rtt) = now.checked_sub(Duration::from_micros(told.echo))
            && told.echo > 0
            && rtt < SILENT
        {
            self.coordinates.handle_sample(member(subgrid), told.coordinate, rtt);
        }
        if self.shows_charter(told.charter) {
            self.commands.push_back(Command::Charter { to: reach });
        }
        if let Some((seat, _)) = told.region_peer
            && seat.subgrid != self.own.subgrid
            && !self.seats.is_heard(seat.subgrid, now)
        {
            self.seats.hear_of(seat);
        }
        // Not everybody who says that it is.
        let by_region_peer = self.region_peer().is_some_and(|(seat, _)| seat.node == from);
        match told.directory.filter(|_| by_region_peer) {
            Some(rows) => {
                self.told = digest(&rows);
                for row in rows {
                    let of_it = self.sites.of.contains(&row.seat.subgrid);
                    if of_it && row.seat.subgrid != self.own.subgrid {
                        self.seats.told(row, now);
                    }
                }
            }
            None if by_region_peer => self.seats.told_the_same(now),
            None => {}
        }
        if self.sites.version > 0 {
            self.seats.retain(&self.sites.of);
        }
        self.remember();
    }

    /// A word of this site's or another's super-peer that is not the assembly's own matter has come:
    /// whether who sent it speaks for that site.
    pub fn hear(&mut self, from: NodeId, subgrid: SubgridId, now: Duration) -> bool {
        let speaks = self.seats.speaks(subgrid, from);
        if speaks {
            self.seats.heard(subgrid, now);
        }
        speaks
    }

    /// When there is something to do.
    pub fn poll_timeout(&self) -> Duration {
        let due = self.next_hail.min(self.next_look);
        self.group.as_ref().map_or(due, |group| due.min(group.poll_timeout()))
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Duration) {
        if now >= self.next_look {
            self.next_look = now + LOOK;
            self.look(now);
        }
        if now >= self.next_hail {
            self.next_hail = now + HAIL.mul_f64(self.rng.random_range(0.9..1.1));
            self.hail(now);
        }
        if let Some(group) = &mut self.group
            && group.poll_timeout() <= now
        {
            group.handle_timeout(now);
        }
        self.flush(now);
    }

    /// What is to be done, one at a time until there is nothing more.
    pub fn poll_command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    /// Whether the charter names this site.
    pub fn is_in(&self) -> bool {
        self.sites.of.contains(&self.own.subgrid)
    }

    /// Whether this site answers for the region, and may decide for it now.
    pub fn may_decide(&self, now: Duration) -> bool {
        self.group.as_ref().is_some_and(|group| group.may_decide(now))
    }

    /// Who answers for the region, and where it is.
    pub fn region_peer(&self) -> Option<(&Seat, Mandate)> {
        let led = self.led?;
        let seat = match led.subgrid == self.own.subgrid {
            true => &self.own,
            false => self.seats.get(led.subgrid)?,
        };
        Some((seat, led.mandate))
    }

    /// Who speaks for a site, as far as is known.
    pub fn seat(&self, subgrid: SubgridId) -> Option<&Seat> {
        if subgrid == self.own.subgrid { Some(&self.own) } else { self.seats.get(subgrid) }
    }

    /// Where a node is that speaks for a site.
    pub fn reach(&self, node: NodeId) -> Option<Reach> {
        self.seats.iter().find(|seat| seat.node == node).map(Seat::to_reach)
    }

    /// All sites of which anything is known, and whether they live.
    pub fn directory(&self, now: Duration) -> Vec<Row> {
        let own = Row { seat: self.own.clone(), alive: true };
        std::iter::once(own).chain(self.seats.rows(now)).collect()
    }

    /// Who asks to be let in, or go.
    pub fn asking(&self) -> impl Iterator<Item = (SubgridId, &Asking)> {
        self.asking.iter().map(|(subgrid, asking)| (*subgrid, asking))
    }

    /// Where this super-peer is, by its round trips to others.
    pub fn coordinate(&self) -> Coordinate {
        self.coordinates.coordinate()
    }

    /// Which generation of the region's group it is, and whose majority it takes.
    pub fn electors(&self) -> (u64, Vec<SubgridId>) {
        let Some(group) = &self.group else { return (0, Vec::new()) };
        let electors = group.view().map(|view| view.electors.keys().copied().map(site).collect());
        (group.generation(), electors.unwrap_or_default())
    }

    /// Says to the region-peer that this site is there, and to all while nobody is known to be it.
    /// The region-peer itself looks for those that are silent.
    fn hail(&mut self, now: Duration) {
        let region_peer = self.led.map(|led| led.subgrid);
        let is_it = region_peer == Some(self.own.subgrid);
        let known = is_it || region_peer.is_some_and(|it| self.seats.is_alive(it, now));
        let wanted = |seat: &&Seat| match known {
            true if is_it => !self.seats.is_alive(seat.subgrid, now),
            true => Some(seat.subgrid) == region_peer,
            false => true,
        };
        let mut to: Vec<Reach> = self.seats.iter().filter(wanted).map(Seat::to_reach).collect();
        if let Some(beacon) = self.beacon.clone()
            && !known
            && !to.iter().any(|reach| reach.node == beacon.node)
        {
            to.push(beacon);
        }
        let hail = Hail {
            seat: self.own.clone(),
            charter: self.sites.version,
            directory: self.told,
            registration: self.registration.clone(),
            sent: u64::try_from(now.as_micros()).unwrap_or_default(),
        };
        for reach in to {
            self.send(reach, Word::Hail(Box::new(hail.clone())));
        }
    }

    /// Whether somebody with a charter of this version is shown the own one: which of the two counts
    /// the versions alone do not tell.
    fn shows_charter(&self, version: u64) -> bool {
        self.sites.version > 0 && version != self.sites.version
    }

    /// Tells the group who lives.
    fn look(&mut self, now: Duration) {
        self.asking.retain(|_, asking| asking.heard + ASKING > now);
        let Some(group) = &mut self.group else { return };
        let others = self.sites.of.iter().filter(|subgrid| **subgrid != self.own.subgrid);
        let standings =
            others.map(|subgrid| (member(*subgrid), self.seats.standing(*subgrid, now)));
        let standings: BTreeMap<NodeId, Standing> = standings.collect();
        // Who was in the charter and is no more.
        let electors = group.view().into_iter().flat_map(|view| view.electors.keys().copied());
        let gone = electors.filter(|elector| !self.sites.of.contains(&site(*elector)));
        let gone: BTreeSet<NodeId> = gone.collect();
        group.handle_members(standings, gone, self.own.availability, now);
    }

    fn flush(&mut self, now: Duration) {
        while let Some(command) = self.group.as_mut().and_then(Group::poll_command) {
            match command {
                GroupCommand::Save(changes) => self.commands.push_back(Command::Save(changes)),
                GroupCommand::Send { to, payload, .. } => {
                    if let Some(reach) = self.seats.get(site(to)).map(Seat::to_reach) {
                        self.send(reach, Word::Group(payload));
                    }
                }
                GroupCommand::Led(led) => {
                    let led =
                        led.map(|led| RegionPeer { subgrid: site(led.node), mandate: led.mandate });
                    self.lead(led);
                    self.next_hail = now;
                }
                // Nothing is proposed to a region's group: who leads it is all there is.
                GroupCommand::Done { .. } => {}
                GroupCommand::Complain { member, what } => self.complain(site(member), what),
            }
        }
    }

    fn lead(&mut self, led: Option<RegionPeer>) {
        if self.led != led {
            self.led = led;
            self.commands.push_back(Command::Led(led));
        }
    }

    fn remember(&mut self) {
        if self.seats.is_news() {
            self.commands.push_back(Command::Remember(self.seats.iter().cloned().collect()));
        }
    }

    fn send(&mut self, to: Reach, word: Word) {
        self.commands.push_back(Command::Send { to, word });
    }

    fn complain(&mut self, subgrid: SubgridId, what: &'static str) {
        self.commands.push_back(Command::Complain { subgrid, what });
    }
}

fn digest(rows: &[Row]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new_derive_key("phantom region directory");
    let mut sorted: Vec<&Row> = rows.iter().collect();
    sorted.sort_by_key(|row| row.seat.subgrid);
    for row in sorted {
        // Plain structs of numbers and bytes always serialize.
        hasher.update(&postcard::to_stdvec(row).unwrap_or_default());
    }
    let digest = *hasher.finalize().as_bytes();
    digest.first_chunk().copied().unwrap_or_default()
}

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::machine::group::Change;

/// Sites in virtual time, whose super-peers come and go.
struct World {
    now: Duration,
    rng: StdRng,
    sites: Vec<Place>,
    /// All versions.
    charters: Vec<Sites>,
    flying: Vec<(Duration, NodeId, Reach, Word)>,
    loss: f64,
    led: BTreeMap<Mandate, SubgridId>,
    /// What the DNS says of the region-peer, and when it is asked next.
    zone: Reach,
    next_look_up: Duration,
    decided: usize,
    what: Vec<&'static str>,
}

/// What a site keeps, and who speaks for it at the moment.
struct Place {
    id: SubgridId,
    kept: Kept,
    remembered: Vec<Seat>,
    charter: u64,
    term: u64,
    node: u64,
    assembly: Option<Assembly>,
    back_at: Duration,
    part: usize,
}

fn subgrid(number: usize) -> SubgridId {
    SubgridId([number as u8 + 1; 32])
}

fn node(site: usize, count: u64) -> NodeId {
    let mut bytes = [site as u8 + 1; 32];
    bytes[24..].copy_from_slice(&count.to_be_bytes());
    NodeId(bytes)
}

impl World {
    fn new(count: usize, seed: u64) -> Self {
        let place = |number| Place {
            id: subgrid(number),
            kept: Kept::default(),
            remembered: Vec::new(),
            charter: 0,
            term: 0,
            node: 0,
            assembly: None,
            back_at: Duration::ZERO,
            part: 0,
        };
        Self {
            now: Duration::from_secs(1000),
            rng: StdRng::seed_from_u64(seed),
            sites: (0..count).map(place).collect(),
            charters: vec![Sites { version: 1, of: [subgrid(0)].into() }],
            flying: Vec::new(),
            loss: 0.0,
            led: BTreeMap::new(),
            zone: Reach { node: node(0, 1), subgrid: None, addrs: Vec::new() },
            next_look_up: Duration::ZERO,
            decided: 0,
            what: Vec::new(),
        }
    }

    /// A new super-peer takes over: all that it knows is what the site has kept.
    fn appear(&mut self, number: usize) {
        let place = &mut self.sites[number];
        place.term += 1;
        place.node += 1;
        let own = Seat {
            subgrid: place.id,
            node: node(number, place.node),
            mandate: Mandate { generation: 1, term: place.term },
            reach: vec![number as u8],
            availability: 900 - number as u16,
        };
        let (kept, remembered) = (place.kept.clone(), place.remembered.clone());
        let seed = self.rng.random();
        let mut new = Assembly::new(own, number == 0, kept, remembered, seed, self.now);
        if number == 0 {
            place.charter = place.charter.max(1);
        }
        match place.charter {
            0 => new.handle_registration(vec![number as u8]),
            version => new.handle_charter(self.charters[version as usize - 1].clone(), self.now),
        }
        self.sites[number].assembly = Some(new);
        self.obey(number);
    }

    fn vanish(&mut self, number: usize, outage: Duration) {
        self.sites[number].assembly = None;
        self.sites[number].back_at = self.now + outage;
    }

    fn obey(&mut self, number: usize) {
        loop {
            let place = &mut self.sites[number];
            let Some(assembly) = &mut place.assembly else { return };
            let Some(command) = assembly.poll_command() else { return };
            let from = node(number, place.node);
            match command {
                Command::Save(changes) => {
                    changes.into_iter().for_each(|change: Change| place.kept.apply(change));
                }
                Command::Forget => place.kept = Kept::default(),
                Command::Remember(seats) => place.remembered = seats,
                Command::Send { to, word } => {
                    assert!(word.is_sound());
                    let bytes = postcard::to_stdvec(&word).unwrap();
                    let word: Word = postcard::from_bytes(&bytes).unwrap();
                    if self.rng.random_bool(1.0 - self.loss) {
                        let at = self.now + Duration::from_millis(self.rng.random_range(1..40));
                        self.flying.push((at, from, to, word));
                    }
                }
                Command::Charter { to } => {
                    let (version, now) = (place.charter, self.now);
                    let other = &mut self.sites[usize::from(to.node.0[0]) - 1];
                    let there = other.assembly.as_mut().filter(|it| it.own.node == to.node);
                    if let Some(assembly) = there.filter(|_| other.charter < version) {
                        other.charter = version;
                        assembly.handle_registration(Vec::new());
                        assembly.handle_charter(self.charters[version as usize - 1].clone(), now);
                    }
                }
                Command::Led(Some(led)) => {
                    let before = self.led.insert(led.mandate, led.subgrid);
                    assert!(before.is_none_or(|before| before == led.subgrid), "{led:?}");
                }
                Command::Led(None) => {}
                Command::Complain { what, .. } => self.what.push(what),
            }
        }
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(10);
        let (due, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.flying).into_iter().partition(|(at, ..)| *at <= self.now);
        self.flying = rest;
        for (_, from, to, word) in due {
            let number = |node: NodeId| usize::from(node.0[0]) - 1;
            let (sender, receiver) = (number(from), number(to.node));
            if self.sites[sender].part != self.sites[receiver].part {
                continue;
            }
            let Some(assembly) = &mut self.sites[receiver].assembly else { continue };
            if to.node == assembly.own.node {
                assembly.handle_word(from, subgrid(sender), word, self.now);
                self.obey(receiver);
                continue;
            }
            // A member that was super-peer before.
            let word = Word::Moved(Box::new(assembly.own.clone()));
            let site = &mut self.sites[sender];
            if let Some(assembly) = site.assembly.as_mut().filter(|it| it.own.node == from) {
                assembly.handle_word(to.node, subgrid(receiver), word, self.now);
                self.obey(sender);
            }
        }
        for number in 0..self.sites.len() {
            if self.sites[number].assembly.is_none() && self.sites[number].back_at <= self.now {
                self.appear(number);
            }
            if let Some(assembly) = &mut self.sites[number].assembly
                && assembly.poll_timeout() <= self.now
            {
                assembly.handle_timeout(self.now);
                self.obey(number);
            }
        }
        let deciding = self.deciding();
        // Within a generation an earlier one may not know yet that it was replaced.
        let of = |number: &usize| self.sites[*number].assembly.as_ref().map(|it| it.electors().0);
        let generations: BTreeSet<_> = deciding.iter().map(of).collect();
        assert!(generations.len() <= 1, "{deciding:?} at {:?}: {:#?}", self.now, self.tell());
        self.decided += deciding.len();
        if self.charters.len() == 1 && !deciding.is_empty() {
            self.change_charter((0..self.sites.len()).map(subgrid).collect(), 0);
        }
        for number in deciding {
            self.zone.node = node(number, self.sites[number].node);
        }
        if self.next_look_up <= self.now {
            self.next_look_up = self.now + Duration::from_secs(5);
            for assembly in self.sites.iter_mut().filter_map(|place| place.assembly.as_mut()) {
                if assembly.region_peer().is_none() {
                    assembly.handle_beacon(self.zone.clone(), self.now);
                }
            }
        }
    }

    /// The region's admin signs another charter, and tells a site.
    fn change_charter(&mut self, of: BTreeSet<SubgridId>, number: usize) {
        let charter = Sites { version: self.charters.len() as u64 + 1, of };
        self.charters.push(charter.clone());
        self.sites[number].charter = charter.version;
        if let Some(assembly) = &mut self.sites[number].assembly {
            assembly.handle_charter(charter, self.now);
        }
    }

    fn deciding(&self) -> Vec<usize> {
        let decides =
            |place: &Place| place.assembly.as_ref().is_some_and(|it| it.may_decide(self.now));
        (0..self.sites.len()).filter(|number| decides(&self.sites[*number])).collect()
    }

    /// Until all that live know the same region-peer, which decides.
    fn agree(&mut self, within: Duration) -> usize {
        let ends = self.now + within;
        loop {
            self.step();
            assert!(self.now < ends, "no agreement: {:?}", self.tell());
            let [one] = self.deciding()[..] else { continue };
            let all = self.sites.iter().filter_map(|place| place.assembly.as_ref());
            let peers: BTreeSet<_> =
                all.map(|assembly| assembly.region_peer().map(|(seat, _)| seat.node)).collect();
            let everybody = self.charters.len() > 1 || self.sites.len() == 1;
            if everybody
                && peers.len() == 1
                && peers.contains(&Some(node(one, self.sites[one].node)))
            {
                return one;
            }
        }
    }

    fn run(&mut self, time: Duration) {
        let ends = self.now + time;
        while self.now < ends {
            self.step();
        }
    }

    fn tell(&self) -> Vec<String> {
        let one = |place: &Place| match &place.assembly {
            Some(assembly) => {
                let led =
                    assembly.region_peer().map(|(seat, mandate)| (seat.node.short(), mandate));
                format!("{} {led:?} {:?}", place.id.short(), assembly.electors())
            }
            None => format!("{} away", place.id.short()),
        };
        self.sites.iter().map(one).collect()
    }
}

/// That of `PHANTOM_SEED`, or another one each time.
fn seed() -> u64 {
    let given = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("seed {seed}");
    seed
}

#[test]
fn a_region_of_one_site_answers_for_itself() {
    let mut world = World::new(1, seed());
    assert_eq!(world.agree(Duration::from_secs(30)), 0);
}

#[test]
fn sites_that_are_let_in_find_each_other_and_one_answers() {
    for count in [2, 3, 12] {
        let mut world = World::new(count, seed());
        world.agree(Duration::from_secs(60));
        let ends = world.now + Duration::from_secs(400);
        let complete = |world: &World, place: &Place| {
            let Some(assembly) = &place.assembly else { return false };
            let alive = assembly.directory(world.now).iter().filter(|row| row.alive).count();
            assembly.electors().1.len() == count && alive == count
        };
        while !world.sites.iter().all(|place| complete(&world, place)) {
            world.step();
            assert!(world.now < ends, "{:?}", world.tell());
        }
        assert!(world.what.is_empty(), "{:?}", world.what);
    }
}

#[test]
fn a_site_whose_super_peer_changes_goes_on_with_what_it_has_promised() {
    let mut world = World::new(3, seed());
    let first = world.agree(Duration::from_secs(60));
    world.run(Duration::from_secs(60));
    for _ in 0..5 {
        // The region-peer's own site, and another.
        world.vanish(first, Duration::from_secs(1));
        world.vanish((first + 1) % 3, Duration::from_secs(1));
        world.step();
        world.agree(Duration::from_secs(90));
    }
}

#[test]
fn a_site_that_is_gone_for_long_is_replaced_as_region_peer_and_comes_back() {
    let mut world = World::new(3, seed());
    let first = world.agree(Duration::from_secs(60));
    world.run(Duration::from_secs(60));
    world.vanish(first, Duration::from_secs(300));
    world.step();
    let second = world.agree(Duration::from_secs(60));
    assert_ne!(second, first);
    world.run(Duration::from_secs(300));
    world.agree(Duration::from_secs(60));
}

#[test]
fn a_site_that_is_put_out_stands_in_nobodys_way() {
    let mut world = World::new(2, seed());
    let first = world.agree(Duration::from_secs(60));
    world.run(Duration::from_secs(60));
    // The one that leads is gone for ever: alone the other decides nothing, until it is put out.
    world.vanish(first, Duration::from_secs(100_000));
    world.run(Duration::from_secs(60));
    assert_eq!(world.deciding(), Vec::<usize>::new());
    let rest = 1 - first;
    world.change_charter([subgrid(rest)].into(), rest);
    assert_eq!(world.agree(Duration::from_secs(90)), rest);
}

#[test]
fn no_two_have_one_mandate_whatever_happens() {
    let more = std::env::var("PHANTOM_SEEDS").ok().and_then(|text| text.parse().ok());
    for _ in 0..6 * more.unwrap_or(1) {
        let seed = seed();
        let count = 2 + (seed % 5) as usize;
        let mut world = World::new(count, seed);
        world.loss = 0.05;
        for _ in 0..60 {
            let number = world.rng.random_range(0..count);
            match world.rng.random_range(0..4) {
                0 => {
                    let outage = Duration::from_millis(world.rng.random_range(500..20_000));
                    world.vanish(number, outage);
                }
                1 => world.sites[number].part = world.rng.random_range(0..2),
                2 => world.sites.iter_mut().for_each(|place| place.part = 0),
                _ => {}
            }
            let time = Duration::from_millis(world.rng.random_range(100..8000));
            world.run(time);
        }
        world.loss = 0.0;
        world.sites.iter_mut().for_each(|place| place.part = 0);
        world.agree(Duration::from_secs(200));
        assert!(world.decided > 0);
    }
}

#[test]
fn who_does_not_speak_for_a_site_is_not_heard() {
    let mut world = World::new(2, seed());
    world.agree(Duration::from_secs(60));
    let now = world.now;
    let seat = |count, term, subgrid| Seat {
        subgrid,
        node: node(1, count),
        mandate: Mandate { generation: 1, term },
        reach: Vec::new(),
        availability: 1,
    };
    let hail = |seat| {
        let (charter, directory, registration) = (2, [0; 8], Vec::new());
        Word::Hail(Box::new(Hail { seat, charter, directory, registration, sent: 1 }))
    };
    let answered = |assembly: &mut Assembly| {
        let commands: Vec<_> = std::iter::from_fn(|| assembly.poll_command()).collect();
        commands.iter().any(|command| matches!(command, Command::Send { .. }))
    };
    let assembly = world.sites[0].assembly.as_mut().unwrap();
    // A former super-peer, one that says it is another, one of a sub-grid that was not let in.
    for (from, proven, seat) in [
        (node(1, 9), subgrid(1), seat(9, 0, subgrid(1))),
        (node(1, 9), subgrid(1), seat(8, 7, subgrid(1))),
        (node(1, 9), subgrid(7), seat(9, 7, subgrid(1))),
        (node(1, 9), subgrid(7), seat(9, 7, subgrid(7))),
    ] {
        assembly.handle_word(from, proven, hail(seat), now);
        assert!(!answered(assembly));
    }
    assembly.handle_word(node(1, 9), subgrid(1), hail(seat(9, 7, subgrid(1))), now);
    assert!(answered(assembly));
}

#[test]
fn a_site_that_tells_lies_about_others_silences_nobody() {
    let seat = |site: usize, count, term| Seat {
        subgrid: subgrid(site),
        node: node(site, count),
        mandate: Mandate { generation: term, term },
        reach: vec![site as u8],
        availability: 1,
    };
    let lie = || Seat { node: node(2, 66), ..seat(1, 66, u64::MAX) };
    let welcome = |region_peer: Seat, directory| {
        let at = region_peer.mandate;
        Word::Welcome(Box::new(Welcome {
            seat: seat(2, 1, 1),
            charter: 3,
            region_peer: Some((region_peer, at)),
            directory,
            coordinate: Vivaldi::new([1; 32]).coordinate(),
            echo: 0,
        }))
    };
    let hail = |seat| {
        let (charter, directory, registration) = (3, [0; 8], Vec::new());
        Word::Hail(Box::new(Hail { seat, charter, directory, registration, sent: 1 }))
    };
    let now = Duration::from_secs(1000);
    let begin = || {
        let mut assembly =
            Assembly::new(seat(0, 1, 1), true, Kept::default(), Vec::new(), [7; 32], now);
        let of = (0..3).map(subgrid).collect();
        assembly.handle_charter(Sites { version: 3, of }, now);
        assembly
    };
    let answered = |assembly: &mut Assembly, at| {
        std::iter::from_fn(|| assembly.poll_command()).for_each(drop);
        assembly.handle_word(node(1, 1), subgrid(1), hail(seat(1, 1, 1)), at);
        let mut commands = std::iter::from_fn(|| assembly.poll_command());
        commands.any(|command| matches!(command, Command::Send { to, .. } if to.node == node(1, 1)))
    };
    // Before the other was heard, after it, and as the region-peer that it is not.
    for heard in [false, true] {
        for directory in [None, Some(vec![Row { seat: lie(), alive: true }])] {
            let mut assembly = begin();
            assert!(!heard || answered(&mut assembly, now));
            assembly.handle_word(node(2, 1), subgrid(2), welcome(lie(), directory.clone()), now);
            assert_eq!(
                assembly.hear(node(1, 1), subgrid(1), now),
                heard,
                "it need not say it again"
            );
            assembly.handle_word(node(2, 1), subgrid(2), welcome(seat(2, 1, 1), directory), now);
            assert!(answered(&mut assembly, now), "heard before: {heard}");
        }
    }
    // What one of the site itself has made up ends when it falls silent.
    let mut assembly = begin();
    assembly.handle_word(node(1, 9), subgrid(1), hail(seat(1, 9, u64::MAX)), now);
    assert!(!answered(&mut assembly, now + SILENT / 2));
    assert!(answered(&mut assembly, now + SILENT));
}

proptest! {
    #[test]
    fn any_word_of_anybody_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut world = World::new(2, 7);
        world.run(Duration::from_millis(200));
        if let Ok(word) = postcard::from_bytes::<Word>(&bytes) {
            let now = world.now;
            let assembly = world.sites[0].assembly.as_mut().unwrap();
            assembly.handle_word(node(1, 1), subgrid(1), word, now);
            while assembly.poll_command().is_some() {}
        }
    }
}

//! Whole sub-grids in virtual time, over a network that loses, delays, freezes and parts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use proptest::prelude::*;
use rand::RngExt;

use super::*;

struct Node {
    id: NodeId,
    machine: Membership,
    /// Killed.
    dead: bool,
    /// Neither hears nor acts before this time, as a stopped process; what came meanwhile waits.
    frozen_until: Duration,
    /// Datagrams and payload bytes it has sent.
    sent: (u64, u64),
}

/// A payload on its way: when it arrives, its number, to whom, from whom, what.
type Letter = (Duration, u64, usize, usize, Bytes);

struct Net {
    nodes: Vec<Node>,
    wire: BinaryHeap<Reverse<Letter>>,
    now: Duration,
    count: u64,
    rng: StdRng,
    loss: f64,
    latency: Duration,
    /// Which of two sides each node is on, while the network is parted.
    sides: Option<Vec<bool>>,
}

fn id(number: usize) -> NodeId {
    let mut id = [3; 32];
    id[..8].copy_from_slice(&(number as u64 + 1).to_be_bytes());
    NodeId(id)
}

fn secs(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

impl Net {
    fn new(count: usize, seed: u64, loss: f64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let nodes = (0..count).map(|number| Node {
            id: id(number),
            machine: Membership::new(id(number), 1 << 20, rng.random(), Duration::ZERO),
            dead: false,
            frozen_until: Duration::ZERO,
            sent: (0, 0),
        });
        let nodes = nodes.collect();
        let (wire, latency) = (BinaryHeap::new(), Duration::from_millis(2));
        let now = Duration::ZERO;
        let mut net = Self { nodes, wire, now, count: 0, rng, loss, latency, sides: None };
        for number in 0..count {
            let roster: Vec<_> = (0..count).map(id).collect();
            net.nodes[number].machine.handle_roster(roster, Duration::ZERO);
        }
        net
    }

    fn number(&self, node: NodeId) -> usize {
        self.nodes.iter().position(|other| other.id == node).unwrap()
    }

    fn flush(&mut self, from: usize) {
        while let Some(command) = self.nodes[from].machine.poll_command(self.now) {
            let Command::Send { to, payload, .. } = command else { continue };
            let to = self.number(to);
            self.nodes[from].sent.0 += 1;
            self.nodes[from].sent.1 += payload.len() as u64;
            let parted = self.sides.as_ref().is_some_and(|sides| sides[from] != sides[to]);
            if parted || self.rng.random_bool(self.loss) {
                continue;
            }
            self.count += 1;
            let jitter = self.latency.mul_f64(self.rng.random_range(0.5..1.5));
            self.wire.push(Reverse((self.now + jitter, self.count, to, from, payload)));
        }
    }

    /// Lets the time pass to `end`, calling `check` after each event until it says that it has seen
    /// enough. Returns when that was.
    fn run(&mut self, end: Duration, mut check: impl FnMut(&Self) -> bool) -> Option<Duration> {
        loop {
            let timers = self
                .nodes
                .iter()
                .filter(|node| !node.dead)
                .filter_map(|node| Some(node.machine.poll_timeout()?.max(node.frozen_until)));
            let arrival = self.wire.peek().map(|Reverse((at, ..))| *at);
            let next = timers.chain(arrival).min().unwrap_or(end);
            if next >= end {
                self.now = end;
                return None;
            }
            self.now = self.now.max(next);
            while let Some(Reverse((at, ..))) = self.wire.peek()
                && *at <= self.now
            {
                let Some(Reverse((_, turn, to, from, payload))) = self.wire.pop() else { break };
                let sender = self.nodes[from].id;
                let node = &mut self.nodes[to];
                if node.frozen_until > self.now {
                    let later = node.frozen_until;
                    self.wire.push(Reverse((later, turn, to, from, payload)));
                } else if !node.dead {
                    node.machine.handle_payload(sender, &payload, self.now);
                    self.flush(to);
                }
            }
            for number in 0..self.nodes.len() {
                let node = &mut self.nodes[number];
                let due = node.machine.poll_timeout().is_some_and(|at| at <= self.now);
                if !node.dead && node.frozen_until <= self.now && due {
                    node.machine.handle_timeout(self.now);
                    self.flush(number);
                }
            }
            if check(self) {
                return Some(self.now);
            }
        }
    }

    fn sees(&self, from: usize, of: usize) -> bool {
        self.nodes[from].machine.seen(id(of)).is_some_and(|seen| seen.up)
    }

    /// Whether all that live see exactly those that live.
    fn agrees(&self) -> bool {
        let alive = |number: &usize| !self.nodes[*number].dead;
        (0..self.nodes.len()).filter(alive).all(|from| {
            (0..self.nodes.len())
                .filter(|of| *of != from)
                .all(|of| self.sees(from, of) != self.nodes[of].dead)
        })
    }
}

#[test]
fn who_is_heard_of_before_it_is_known_as_a_member_is_told_when_it_is() {
    let mut net = Net::new(3, 7, 0.0);
    // The others' word that it lives outruns its certificate.
    net.nodes[1].machine.handle_roster([id(0), id(1)], Duration::ZERO);
    net.run(secs(20.0), |_| false);
    assert_eq!(net.nodes[1].machine.seen(id(2)), None);
    let now = net.now;
    net.nodes[1].machine.handle_roster((0..3).map(id), now);
    net.run(now + secs(10.0), |_| false);
    assert!(net.nodes[1].machine.seen(id(2)).is_some_and(|seen| seen.up));
}

#[test]
fn twenty_nodes_know_each_other_soon_and_a_killed_one_is_known_to_all() {
    let mut took = Vec::new();
    for seed in 0..60 {
        let mut net = Net::new(20, seed, 0.01);
        let joined = net.run(secs(60.0), Net::agrees).expect("all know all");
        assert!(joined < secs(6.0), "seed {seed}: {joined:?} to know all");
        net.run(net.now + secs(20.0), |_| false);
        let dead = (seed % 20) as usize;
        net.nodes[dead].dead = true;
        let killed = net.now;
        let known = net.run(killed + secs(60.0), Net::agrees).expect("all know it");
        took.push(known - killed);
    }
    took.sort();
    println!("known to all of 20: median {:?}, worst {:?}", took[30], took[59]);
    assert!(took[30] < secs(4.5) && took[59] < secs(5.0), "{took:?}");
}

#[test]
fn twenty_minutes_of_loss_make_nobody_gone() {
    let mut net = Net::new(20, 7, 0.01);
    net.run(secs(60.0), Net::agrees).expect("all know all");
    let began = net.now;
    let before: (u64, u64) =
        net.nodes.iter().fold((0, 0), |sum, node| (sum.0 + node.sent.0, sum.1 + node.sent.1));
    let wrong = net.run(began + secs(1200.0), |net| !net.agrees());
    assert_eq!(wrong, None, "somebody alive was taken for gone");
    let after: (u64, u64) =
        net.nodes.iter().fold((0, 0), |sum, node| (sum.0 + node.sent.0, sum.1 + node.sent.1));
    // With the headers of envelope, UDP and IPv4.
    let bytes = (after.1 - before.1) + (after.0 - before.0) * (36 + 28);
    let bits_per_node_s = bytes as f64 * 8.0 / 20.0 / 1200.0;
    println!("idle: {bits_per_node_s:.0} bit/s sent by each node");
    assert!(bits_per_node_s < 2000.0, "{bits_per_node_s}");
}

#[test]
fn a_frozen_node_is_back_soon_after_it_wakes() {
    for (seed, seconds) in [(1, 4.0), (2, 10.0), (3, 15.0), (4, 10.0), (5, 10.0)] {
        let mut net = Net::new(20, seed, 0.01);
        net.run(secs(60.0), Net::agrees).expect("all know all");
        let wakes = net.now + secs(seconds);
        net.nodes[4].frozen_until = wakes;
        net.run(wakes, |_| false);
        let back = net.run(wakes + secs(30.0), Net::agrees).expect("it is back") - wakes;
        assert!(back < secs(5.0), "seed {seed}: {back:?} after it woke");
    }
}

#[test]
fn a_parted_network_heals() {
    let mut net = Net::new(12, 5, 0.02);
    net.run(secs(60.0), Net::agrees).expect("all know all");
    net.sides = Some((0..12).map(|number| number < 5).collect());
    let parted = |net: &Net| {
        (0..12).all(|from| {
            (0..12).all(|of| from == of || net.sees(from, of) == ((from < 5) == (of < 5)))
        })
    };
    net.run(net.now + secs(60.0), parted).expect("each side knows its own");
    net.sides = None;
    let healed = net.now;
    let back = net.run(healed + secs(120.0), Net::agrees).expect("all are back") - healed;
    assert!(back < secs(20.0), "{back:?}");
}

#[test]
fn who_is_no_member_any_more_is_forgotten_at_once() {
    let mut net = Net::new(4, 1, 0.0);
    net.run(secs(60.0), Net::agrees).expect("all know all");
    for number in 0..3 {
        let now = net.now;
        net.nodes[number].machine.handle_roster((0..3).map(id), now);
        assert_eq!(net.nodes[number].machine.seen(id(3)), None);
        let commands: Vec<_> =
            std::iter::from_fn(|| net.nodes[number].machine.poll_command(now)).collect();
        assert!(
            !commands
                .iter()
                .any(|command| matches!(command, Command::Send { to, .. } if *to == id(3)))
        );
    }
}

#[test]
fn a_restarted_daemon_is_up_again() {
    let mut net = Net::new(5, 1, 0.0);
    net.run(secs(60.0), Net::agrees).expect("all know all");
    let now = net.now;
    net.nodes[2].machine = Membership::new(id(2), 2 << 20, [9; 32], now);
    net.nodes[2].machine.handle_roster((0..5).map(id), now);
    assert!(!net.agrees());
    net.run(now + secs(30.0), Net::agrees).expect("it is known again");
    assert!(net.now - now < secs(3.0), "{:?}", net.now - now);
}

#[test]
fn who_asks_without_end_is_answered_now_and_then() {
    let mut machine = Membership::new(id(0), 1, [1; 32], Duration::ZERO);
    machine.handle_roster((0..3).map(id), Duration::ZERO);
    let mut answers = 0;
    for ms in 0..1000 {
        let now = Duration::from_millis(ms);
        (0..50).for_each(|_| machine.handle_payload(id(1), ASK, now));
        while let Some(command) = machine.poll_command(now) {
            answers +=
                usize::from(matches!(command, Command::Send { payload, .. } if payload.is_empty()));
        }
    }
    assert_eq!(answers, 5);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_payload_is_answered(payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut machine = Membership::new(id(0), 1, [1; 32], Duration::ZERO);
        machine.handle_roster((0..3).map(id), Duration::ZERO);
        machine.handle_payload(id(1), &payload, Duration::ZERO);
        let pretended = [&ShortId::from(id(1)).0[..], &payload].concat();
        machine.handle_payload(id(1), &pretended, Duration::ZERO);
        while machine.poll_command(Duration::ZERO).is_some() {}
    }
}

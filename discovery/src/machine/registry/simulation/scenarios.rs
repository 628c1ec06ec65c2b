use super::*;

const COUNTS: [usize; 5] = [1, 2, 3, 7, 50];
/// From when on a sub-grid without trouble is settled.
const SETTLED: Duration = Duration::from_secs(90);

/// The seeds to run with: those, or the one that is asked for.
fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("PHANTOM_SEED") {
        Ok(seed) => vec![seed.parse().expect("PHANTOM_SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// A random member that lives.
fn some(net: &mut Net, wanted: impl Fn(&Net, usize) -> bool) -> Option<usize> {
    let live: Vec<usize> = (0..net.nodes.len())
        .filter(|at| net.lives(*at) && net.roster.contains(&id(*at)) && wanted(net, *at))
        .collect();
    (!live.is_empty()).then(|| live[net.rng.random_range(0..live.len())])
}

/// Members change, crash, lose their disks and are removed; the super-peer crashes and moves.
fn trouble(net: &mut Net, until: Duration) {
    while net.now < until {
        let pause = secs(net.rng.random_range(0.0..4.0));
        net.run((net.now + pause).min(until));
        match net.rng.random_range(0..20) {
            0..10 => {
                let at = net.rng.random_range(0..net.nodes.len());
                net.change(at);
            }
            10..14 => {
                if let Some(at) = some(net, |net, at| at != net.leader) {
                    fall(net, at);
                }
            }
            14..17 => {
                if let Some(at) = some(net, |_, _| true) {
                    net.elect(at);
                }
            }
            17..19 => {
                let before = net.leader;
                fall(net, before);
                if let Some(at) = some(net, |_, _| true) {
                    let wait = secs(net.rng.random_range(0.5..6.0));
                    net.run(net.now + wait);
                    if net.lives(at) {
                        net.elect(at);
                    }
                }
            }
            _ if net.roster.len() > 3 => {
                if let Some(at) = some(net, |net, at| at != net.leader) {
                    remove(net, at);
                }
            }
            _ => {}
        }
    }
}

fn fall(net: &mut Net, at: usize) {
    net.crash(at);
    let wiped = net.rng.random_bool(0.3);
    net.after(0.5, 30.0, Event::Restart { node: at, wiped });
}

fn remove(net: &mut Net, at: usize) {
    net.roster.remove(&id(at));
    net.nodes[at].super_peer = None;
    let (roster, now) = (net.roster.clone(), net.now);
    for node in 0..net.nodes.len() {
        if let Some(super_peer) = &mut net.nodes[node].super_peer {
            super_peer.handle_roster(roster.clone(), now);
            assert!(!super_peer.entries(now).any(|entry| entry.member == id(at)), "at once");
        }
        net.flush(node);
    }
}

fn calm(net: &mut Net) {
    let until = net.now + secs(40.0);
    net.run(until);
    if net.nodes[net.leader].super_peer.is_none() {
        let at = some(net, |_, _| true).unwrap();
        net.elect(at);
    }
    net.run(net.now + secs(240.0));
    quiet(net);
}

/// Nothing is lost for longer than the longest pause before anything is said again.
fn quiet(net: &mut Net) {
    net.loss = 0.0;
    net.run(net.now + secs(60.0));
}

fn troubled(count: usize, seed: u64) {
    let mut net = Net::new(count, seed);
    net.loss = net.rng.random_range(0.0..0.2);
    net.twice = net.rng.random_range(0.0..0.2);
    net.bad_disk = 0.02;
    trouble(&mut net, secs(150.0));
    net.bad_disk = 0.0;
    calm(&mut net);
    net.settled();
    // What any node did, all were honest.
    let named = net.complaints.iter().find(|(_, what)| !matches!(what, Offence::NotStored { .. }));
    assert_eq!(named, None);
}

#[test]
fn troubled_sub_grids_find_together() {
    for count in COUNTS {
        let runs = if count == 50 { 2 } else { 20 };
        for seed in seeds(runs) {
            troubled(count, seed);
        }
    }
}

/// Takes `gone` away with what they said, and has a node with an empty disk become super-peer.
fn move_to(net: &mut Net, to: usize, gone: &[usize]) {
    for at in gone {
        net.crash(*at);
    }
    net.crash(to);
    net.wipe(to);
    net.start(to);
    net.elect(to);
}

/// What is archived is there again, or something newer.
fn rebuilt(net: &Net, archived: &Snapshot) -> bool {
    let entries = net.entries();
    archived.descriptions().iter().all(|(node, description)| {
        entries.get(node).is_some_and(|entry| entry.version >= description.version)
    })
}

#[test]
fn any_k_disks_give_the_registry_back_to_an_empty_one() {
    for count in COUNTS {
        for seed in seeds(if count == 50 { 2 } else { 10 }) {
            let mut net = Net::new(count, seed);
            net.loss = net.rng.random_range(0.0..0.1);
            net.run(SETTLED);
            quiet(&mut net);
            net.settled();
            net.loss = net.rng.random_range(0.0..0.1);
            let archived = net.archived().unwrap();
            let placement = net.committed.clone().unwrap();
            assert_eq!(
                placement.holders.len(),
                count.min(64),
                "each has one: {:?} {:?}",
                net.complaints,
                net.now
            );
            let spare = placement.manifest.scheme.parity();
            let mut lost: Vec<usize> = placement.holders.iter().map(|node| number(*node)).collect();
            while lost.len() > spare {
                let at = net.rng.random_range(0..lost.len());
                lost.swap_remove(at);
            }
            for at in &lost {
                net.wipe(*at);
            }
            let Some((to, gone)) = lost.split_first() else { continue };
            move_to(&mut net, *to, gone);
            net.run(net.now + secs(50.0));
            let progress = net.super_peer().progress().unwrap();
            assert_eq!(progress.outcome, Outcome::Complete, "{progress:?}");
            assert!(rebuilt(&net, &archived), "also of those who are gone");
            // It is archived again, with those who are left.
            net.run(net.now + secs(60.0));
            quiet(&mut net);
            net.settled();
            assert_eq!(net.complaints, []);
        }
    }
}

#[test]
fn one_disk_too_few_fills_from_the_members_and_is_archived_anew() {
    for count in [2, 3, 7] {
        for seed in seeds(5) {
            let mut net = Net::new(count, seed);
            net.run(SETTLED);
            let placement = net.committed.clone().unwrap();
            let kept = placement.manifest.scheme.data() - 1;
            for holder in &placement.holders[kept..] {
                net.wipe(number(*holder));
                net.crash(number(*holder));
                net.start(number(*holder));
            }
            net.elect(count - 1);
            net.run(net.now + secs(150.0));
            let progress = net.super_peer().progress().unwrap();
            assert_eq!(progress.outcome, Outcome::Failed);
            assert!(progress.have < progress.need);
            net.settled();
        }
    }
}

#[test]
fn without_any_manifest_the_registry_fills_from_the_members() {
    for seed in seeds(5) {
        let mut net = Net::new(7, seed);
        net.loss = 0.2;
        net.run(SETTLED);
        net.committed = None;
        for at in 0..7 {
            net.wipe(at);
            net.crash(at);
            net.start(at);
        }
        net.mandate.generation += 1;
        net.elect(3);
        net.run(net.now + secs(60.0));
        quiet(&mut net);
        assert_eq!(net.super_peer().progress(), None);
        net.settled();
    }
}

#[test]
fn liars_among_the_holders_are_named_and_what_they_give_is_never_used() {
    for vice in [Vice::Corrupts, Vice::Stale, Vice::Forgets] {
        let mut named = 0;
        for count in [3, 7, 50] {
            for seed in seeds(if count == 50 { 1 } else { 5 }) {
                let mut net = Net::new(count, seed);
                let liars = if count == 50 { 5 } else { 1 };
                for at in 1..=liars {
                    net.nodes[at].vice = vice;
                }
                net.run(SETTLED);
                let archived = net.archived().unwrap();
                // Of three one lies, and two must not be lost then.
                move_to(&mut net, count - 1, if count == 3 { &[] } else { &[0] });
                net.run(net.now + secs(50.0));
                let progress = net.super_peer().progress().unwrap();
                assert_eq!(progress.outcome, Outcome::Complete, "{vice:?} {count}: {progress:?}");
                assert!(rebuilt(&net, &archived));
                assert!(
                    net.complaints.iter().all(|(node, _)| (1..=liars).contains(&number(*node)))
                );
                named += net.complaints.len();
            }
        }
        // Enough may have come before the lie does; not every time.
        assert_eq!(named > 0, vice != Vice::Forgets, "{vice:?}");
    }
}

#[test]
fn a_flood_of_one_member_is_named_once_and_delays_nobody_else() {
    for seed in seeds(5) {
        let mut net = Net::new(7, seed);
        net.run(secs(60.0));
        net.complaints.clear();
        let until = net.now + secs(60.0);
        while net.now < until {
            for _ in 0..50 {
                let description = Description::default();
                let flood = Message::Refresh {
                    sent: 1 << 40,
                    version: Version { boot: 0, seq: 0 },
                    digest: description.digest(),
                };
                net.send(3, net.leader, flood);
            }
            let next = net.now + secs(0.25);
            let at = [1, 2, 4, 5, 6][net.rng.random_range(0..5)];
            net.change(at);
            net.run(next);
        }
        let quiet = net.now + secs(2.5);
        net.run(quiet);
        assert_eq!(net.complaints, [(id(3), Offence::Flooding)]);
        // The answers to 200 messages a second are some four.
        let answers = net.sent[net.leader].0;
        assert!(answers < 60 * (4 + 6) + 400, "{answers}");
        for at in [1, 2, 4, 5, 6] {
            let own = net.nodes[at].member.as_ref().unwrap().registrant().description();
            assert_eq!(net.entries().get(&id(at)), Some(own));
        }
    }
}

#[test]
fn a_household_where_one_sleeps_and_the_other_falls_keeps_what_both_said() {
    for seed in seeds(10) {
        let mut net = Net::new(2, seed);
        net.run(SETTLED);
        assert_eq!(net.super_peer().archive().safety(), Some((2, 1)));
        let archived = net.archived().unwrap();
        net.crash(0);
        net.elect(1);
        net.run(net.now + secs(20.0));
        assert!(rebuilt(&net, &archived), "the mirror has it");
        net.run(net.now + secs(60.0));
        assert_eq!(net.super_peer().archive().safety(), Some((1, 1)), "spread over who is left");
        net.start(0);
        net.at(Duration::ZERO, Event::Seen { node: 0, up: true });
        net.run(net.now + secs(90.0));
        net.settled();
        assert_eq!(net.super_peer().archive().safety(), Some((2, 1)), "and over both again");
    }
}

#[test]
fn a_disk_that_takes_nothing_does_not_keep_the_others_from_archiving() {
    for count in [2, 7] {
        let mut net = Net::new(count, 1);
        // It neither says that it has stored nor that it cannot.
        net.run(secs(0.0));
        net.nodes[count - 1].told = Some((id(0), Mandate { generation: 9, term: 0 }));
        net.run(secs(150.0));
        let version = net.committed.clone().unwrap();
        assert!(
            net.complaints.iter().all(|(node, what)| {
                *node == id(count - 1) && matches!(what, Offence::NotStored { .. })
            }),
            "{:?}",
            net.complaints
        );
        assert!(!net.complaints.is_empty());
        let disks = net.shards(&version, |_| false).count();
        assert!(disks >= version.enough() && disks >= count - 1);
    }
}

#[test]
fn who_has_nothing_to_say_says_little() {
    for count in [2, 7, 50] {
        let mut net = Net::new(count, 1);
        net.run(secs(300.0));
        let before = net.sent.clone();
        net.run(net.now + secs(3600.0));
        let header = 28;
        let bytes: u64 = net
            .sent
            .iter()
            .zip(&before)
            .map(|(now, then)| (now.0 - then.0) * header + now.1 - then.1)
            .sum();
        let each = bytes as f64 / count as f64;
        let bits = each * 8.0 / 3600.0;
        println!("{count} members: {each:.0} bytes for each in an hour, {bits:.1} bit/s");
        assert!(bits <= 100.0);
    }
}

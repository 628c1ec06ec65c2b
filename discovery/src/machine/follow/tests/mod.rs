mod alone;
mod world;

use std::time::Duration;

use phantom_model::NodeId;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

use super::*;
use crate::machine::Mandate;
use crate::machine::group::tests::world::{FAIR, Weather};
use crate::machine::group::tests::{Seed, seeds};
use world::Machines;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three machines, of which the super-peer runs the service.
fn settled(seed: u64) -> Machines {
    let mut machines = Machines::new(3, seed);
    machines.run_until("all are electors", secs(120), |machines| {
        machines.agreed().is_some()
            && machines.world.newest().is_some_and(|it| it.view.electors.len() == 3)
    });
    machines.run_until("a copy", secs(60), runs_where_it_should);
    machines.run(secs(5));
    machines
}

fn runs_where_it_should(machines: &Machines) -> bool {
    machines.runs.is_some() && machines.runs == machines.agreed()
}

#[test]
fn it_runs_on_without_a_stop_while_all_is_well() {
    for seed in seeds(5) {
        let _seed = Seed(seed);
        let mut machines = Machines::new(3, seed);
        machines.fails = 0.0;
        machines.run(secs(60));
        let starts = machines.starts;
        machines.run(secs(60));
        assert!(runs_where_it_should(&machines), "{:#?}", machines.log);
        assert_eq!(machines.starts, starts, "{:#?}", machines.log);
        assert!(machines.saves > 10, "{}", machines.saves);
    }
}

#[test]
fn when_the_daemon_dies_the_next_super_peer_starts_after_the_guard_has_ended_it() {
    let mut worst = Duration::ZERO;
    for seed in seeds(20) {
        let _seed = Seed(seed);
        let mut machines = settled(seed);
        let first = machines.agreed().unwrap();
        machines.world.crash(first);
        let took = machines.run_until("the next copy", secs(60), |machines| {
            machines.runs.is_some_and(|host| host != first)
        });
        worst = worst.max(took);
    }
    println!("worst of all: {worst:?}");
    assert!(worst < secs(20), "{worst:?}");
}

#[test]
fn a_daemon_that_ends_in_order_is_followed_at_once() {
    let mut worst = Duration::ZERO;
    for seed in seeds(20) {
        let _seed = Seed(seed);
        let mut machines = settled(seed);
        let first = machines.agreed().unwrap();
        machines.end(first);
        machines.run_until("it is over", secs(10), |machines| machines.is_over(first));
        machines.world.crash(first);
        let took = machines.run_until("the next copy", secs(30), |machines| {
            machines.runs.is_some_and(|host| host != first)
        });
        worst = worst.max(took);
    }
    println!("worst of all: {worst:?}");
    assert!(worst < secs(6), "{worst:?}");
}

#[test]
fn a_daemon_that_comes_back_in_time_takes_its_copy_up_again() {
    let mut machines = Machines::new(1, 4);
    machines.run_until("a copy", secs(10), |machines| machines.runs.is_some());
    machines.run(secs(5));
    machines.fails = 0.0;
    machines.run_until("a copy", secs(30), |machines| machines.runs.is_some());
    let starts = machines.starts;
    machines.world.crash(0);
    machines.run(secs(2));
    machines.world.start(0);
    machines.run(secs(30));
    assert_eq!((machines.starts, machines.runs), (starts, Some(0)), "{:#?}", machines.log);
    assert!(machines.log.iter().any(|line| line.contains("taken up again")));
}

/// Anything may happen at any time.
fn storm(seed: u64, rounds: usize) -> Machines {
    let mut rng = StdRng::seed_from_u64(seed ^ 0xf0110);
    let hosts = [3, 3, 3, 2, 5][seed as usize % 5];
    let mut machines = Machines::new(hosts, seed);
    machines.run(secs(20));
    for _ in 0..rounds {
        machines.world.weather = Weather {
            loss: [0.0, 0.01, 0.2][rng.random_range(0..3)],
            twice: [0.0, 0.1][rng.random_range(0..2)],
            delay_ms: [(1, 4), (1, 200), (20, 3000)][rng.random_range(0..3)],
            crash: [0.0, 0.0, 0.0, 0.0003][rng.random_range(0..4)],
        };
        // What happens to the one that runs it is what matters.
        let any = rng.random_range(0..hosts);
        let host = machines.runs.filter(|_| rng.random_bool(0.6)).unwrap_or(any);
        match rng.random_range(0..11) {
            0 => machines.world.crash(host),
            1 => machines.power_off(host),
            2 | 3 => {
                let span = Duration::from_millis(rng.random_range(500..16_000));
                machines.world.hosts[host].frozen_until = machines.world.now + span;
            }
            4 | 5 => machines.world.hosts[host].part = 1,
            6 => (0..hosts).for_each(|host| machines.world.hosts[host].part = 0),
            7 => machines.end(host),
            8 => machines.set_wanted(rng.random_bool(0.7)),
            9 => machines.world.hosts[host].availability = rng.random_range(0..1000),
            _ => {}
        }
        if rng.random_bool(0.6) {
            for host in 0..hosts {
                if machines.world.hosts[host].group.is_none() && rng.random_bool(0.7) {
                    machines.world.start(host);
                }
            }
        }
        machines.run(Duration::from_millis(rng.next_u64() % 14_000));
    }
    machines
}

#[test]
fn through_any_storm_never_two_run_and_no_kept_state_goes_back() {
    let (mut starts, mut saves) = (0, 0);
    for seed in seeds(10) {
        let _seed = Seed(seed);
        let mut machines = storm(seed, 40);
        (starts, saves) = (starts + machines.starts, saves + machines.saves);
        machines.world.weather = FAIR;
        machines.set_wanted(true);
        for host in 0..machines.world.hosts.len() {
            machines.world.hosts[host].part = 0;
            machines.world.hosts[host].frozen_until = Duration::ZERO;
            // One that was told to end does.
            machines.world.crash(host);
            machines.world.start(host);
        }
        machines.run_until("it runs again", secs(240), runs_where_it_should);
    }
    println!("{starts} starts, {saves} writes");
    assert!(starts > 30, "{starts}");
}

fn record() -> Record {
    Record {
        node: NodeId([3; 32]),
        mandate: Mandate { generation: 2, term: 7 },
        lease: secs(10),
        run: 9,
        count: 4,
        stopped: true,
        since_unix_s: 1,
        exit: Some("exit code 1".to_owned()),
        saved: Some(Saved { unix_s: 2, packed: vec![1; MAX_PACKED] }),
    }
}

#[test]
fn records_are_read_as_they_were_written_within_bounds() {
    let bytes = record().encode();
    assert!(bytes.len() < 64 << 10);
    assert_eq!(Record::decode(&bytes), Some(record()));
    let long = Record { lease: secs(9999), ..record() };
    assert_eq!(Record::decode(&long.encode()), None);
    let saved = Some(Saved { unix_s: 2, packed: vec![1; MAX_PACKED + 1] });
    assert_eq!(Record::decode(&Record { saved, ..record() }.encode()), None);
    assert_eq!(Record::decode(&bytes[1..]), None);
    assert!(Record::exit_words(&"ä€𝄞".repeat(200)).len() <= 256);
}

proptest! {
    #[test]
    fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Record::decode(&bytes);
    }
}

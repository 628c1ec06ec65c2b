//! Coordinates on made-up networks, with liars, spikes and nonsense.

use proptest::prelude::*;

use super::*;
use crate::sim::seed;

fn peer(number: usize) -> NodeId {
    let mut id = [7; 32];
    id[..8].copy_from_slice(&(number as u64).to_be_bytes());
    NodeId(id)
}

/// Round trips between nodes that stand in a few towns, each behind an access link of its own.
fn matrix(rng: &mut StdRng, count: usize) -> Vec<Vec<f64>> {
    let towns: Vec<[f64; 2]> =
        (0..5).map(|_| [rng.random_range(0.0..80.0), rng.random_range(0.0..80.0)]).collect();
    let places: Vec<([f64; 2], f64)> = (0..count)
        .map(|number| {
            let town = towns[number % towns.len()];
            let spread = |rng: &mut StdRng| rng.random_range(-4.0..4.0);
            ([town[0] + spread(rng), town[1] + spread(rng)], rng.random_range(0.5..5.0))
        })
        .collect();
    let rtt = |a: usize, b: usize| {
        let ((one, up), (other, down)) = (places[a], places[b]);
        (one[0] - other[0]).hypot(one[1] - other[1]) + up + down
    };
    (0..count).map(|a| (0..count).map(|b| rtt(a, b)).collect()).collect()
}

/// What the first `liars` nodes say of themselves.
fn lie(rng: &mut StdRng) -> Coordinate {
    let at = [0; 3].map(|_| rng.random_range(-9000.0..9000.0));
    Coordinate { at, height: rng.random_range(0.0..9000.0), error: 0.0 }
}

/// Relative errors between honest nodes after so many rounds of eight samples each, sorted.
fn errors(seed: u64, count: usize, liars: usize, rounds: usize, spikes: f64) -> Vec<f64> {
    let mut rng = StdRng::seed_from_u64(seed);
    let rtts = matrix(&mut rng, count);
    let mut nodes: Vec<_> = (0..count).map(|_| Vivaldi::new(rng.random())).collect();
    // Each measures the same few again and again, as a node does.
    let known: Vec<Vec<usize>> =
        (0..count).map(|_| (0..16).map(|_| rng.random_range(0..count)).collect()).collect();
    for _ in 0..rounds {
        for one in liars..count {
            for _ in 0..8 {
                let other = known[one][rng.random_range(0..16)];
                if other == one {
                    continue;
                }
                let theirs = if other < liars { lie(&mut rng) } else { nodes[other].coordinate() };
                let noise = rng.random_range(1.0..1.1);
                let spike = if rng.random_bool(spikes) { 20.0 } else { 1.0 };
                let rtt = Duration::from_secs_f64(rtts[one][other] * noise * spike / 1000.0);
                assert!(nodes[one].handle_sample(peer(other), theirs, rtt));
            }
        }
    }
    let mut errors = Vec::new();
    for one in liars..count {
        for other in one + 1..count {
            let guess = nodes[one].coordinate().distance(&nodes[other].coordinate());
            errors.push((guess - rtts[one][other]).abs() / rtts[one][other]);
        }
    }
    errors.sort_by(f64::total_cmp);
    errors
}

fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

#[test]
fn distances_are_guessed_well_also_with_spikes_and_liars() {
    let seed = seed();
    for turn in 0..4 {
        let seed = seed.wrapping_add(turn);
        let plain = errors(seed, 60, 0, 60, 0.0);
        let spiked = errors(seed, 60, 0, 60, 0.1);
        let lied = errors(seed, 60, 6, 60, 0.1);
        let all = [median(&plain), median(&spiked), median(&lied)];
        println!("median relative error: plain, spikes, spikes and a tenth liars: {all:.3?}");
        assert!(all[0] < 0.25 && all[1] < 0.3 && all[2] < 0.4, "seed {seed}: {all:?}");
    }
}

#[test]
fn a_liar_moves_a_node_by_little() {
    let mut node = Vivaldi::new([1; 32]);
    let rtt = Duration::from_millis(8);
    for _ in 0..200 {
        let other = Coordinate::new([4.0, 0.0, 0.0], 0.5, 0.1).unwrap();
        node.handle_sample(peer(1), other, rtt);
    }
    let before = node.coordinate();
    let far = Coordinate { at: [-9999.0, 9999.0, 9999.0], height: 9999.0, error: 0.0 };
    assert!(node.handle_sample(peer(2), far, rtt));
    let moved = before.flat(&node.coordinate());
    assert!(moved <= 2.0, "{moved}");
}

fn any_float() -> impl Strategy<Value = f32> {
    prop_oneof![
        any::<f32>(),
        -100f32..100.0,
        prop::sample::select(vec![f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, f32::MIN]),
    ]
}

proptest! {
    #[test]
    fn nothing_makes_it_infinite(
        samples in prop::collection::vec(
            (0usize..400, [any_float(), any_float(), any_float()], any_float(), any_float(), any::<u64>()),
            1..80,
        ),
    ) {
        let mut node = Vivaldi::new([2; 32]);
        for (from, at, height, error, rtt) in samples {
            let before = node.coordinate();
            let theirs = Coordinate { at, height, error };
            let taken = node.handle_sample(peer(from), theirs, Duration::from_nanos(rtt));
            let own = node.coordinate();
            prop_assert_eq!(own.checked(), Some(own));
            prop_assert!(taken || own == before);
            prop_assert!(own.distance(&before).is_finite());
        }
        prop_assert!(node.windows.len() <= MAX_PEERS);
    }

    #[test]
    fn any_bytes_are_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(read) = postcard::from_bytes::<Coordinate>(&bytes)
            && let Some(good) = read.checked()
        {
            prop_assert!(good.distance(&Coordinate::default()).is_finite());
        }
    }

    #[test]
    fn the_nearest_open_one_is_asked(
        far in prop::collection::vec((0u64..60_000, any::<bool>(), 0usize..4), 0..12),
        near in 0u64..60_000,
    ) {
        let probes: Vec<Probe> = far.iter().enumerate().map(|(number, (us, may_enter, extra))| Probe {
            subgrid: SubgridId([number as u8; 32]),
            rtts: (0..*extra).map(|more| Duration::from_micros(us + 700 * more as u64)).collect(),
            may_enter: *may_enter,
        }).collect();
        let limit = Duration::from_micros(near);
        let open = probes.iter().filter(|probe| probe.may_enter).filter_map(|it| it.rtts.first()).min();
        match choose_subgrid(&probes, limit) {
            Decision::Ask { subgrid, rtt, nearer } => {
                let least = *open.unwrap();
                prop_assert!(rtt <= limit && rtt < least + Duration::from_micros(100));
                prop_assert!(probes.iter().any(|it| it.subgrid == subgrid && it.may_enter));
                prop_assert!(nearer.is_none_or(|(closed, at)| closed != subgrid
                    && at < rtt + Duration::from_micros(100)));
            }
            Decision::Found(Reason::TooFar { rtt, .. }) => {
                prop_assert!(rtt > limit && *open.unwrap() + Duration::from_micros(100) > rtt);
            }
            Decision::Found(Reason::MayEnterNone) => {
                prop_assert!(open.is_none() && probes.iter().any(|it| !it.rtts.is_empty()));
            }
            Decision::Found(Reason::NobodyThere) => {
                prop_assert!(probes.iter().all(|it| it.rtts.is_empty()));
            }
        }
    }
}

#[test]
fn the_reason_is_told() {
    let probe = |id: u8, ms: u64, may_enter: bool| Probe {
        subgrid: SubgridId([id; 32]),
        rtts: vec![Duration::from_millis(ms)],
        may_enter,
    };
    let near = Duration::from_millis(5);
    let chosen = choose_subgrid(&[probe(1, 1, false), probe(2, 3, true)], near);
    assert_eq!(
        chosen.to_string(),
        "asks sub-grid 0202020202, 3.0 ms away; 0101010101 is nearer (1.0 ms) but closed"
    );
    let founded = choose_subgrid(&[probe(2, 30, true)], near);
    assert!(founded.to_string().contains("is 30.0 ms away, and near is up to 5.0 ms"));
}

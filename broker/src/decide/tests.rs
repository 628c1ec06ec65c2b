use phantom_model::{Capability, NodeFacts};
use proptest::prelude::*;

use super::*;
use crate::{Left, Rules};

const HERE: NodeId = NodeId([1; 32]);

fn facts(id: u8, cores: u32, idle: u32, mflops: u32) -> NodeFacts {
    NodeFacts {
        node: NodeId([id; 32]),
        name: format!("n{id}"),
        version: String::new(),
        arch: "x86_64".into(),
        kernel: "6.12".into(),
        cpu_flags: vec![],
        cores,
        idle_centicores: idle,
        mflops,
        load_centi: 0,
        memory_total: Bytes(8 << 30),
        memory_free: Bytes(4 << 30),
        capabilities: vec![Capability::Checkpoint, Capability::Files],
        canary: String::new(),
        criu_version: Some(40_200),
        criu_restores_job_control: true,
    }
}

fn node(id: u8, idle: u32, mflops: u32, bytes_per_s: f64) -> Candidate {
    let mut candidate = Candidate::new(NodeId([id; 32]), &format!("n{id}"), None);
    // Where hardly anything is idle, twenty more programs wait.
    let load_centi = if idle <= 20 { 2000 } else { 0 };
    candidate.facts = Some(NodeFacts { load_centi, ..facts(id, 4, idle, mflops) });
    candidate.standing.observe_work(f64::from(mflops));
    candidate.link.way = Some(Estimate { bytes_per_s, doubt: 1.0, age: Duration::ZERO });
    candidate
}

fn situation() -> Situation {
    Situation {
        needs: Needs {
            host: HERE,
            home: HERE,
            resident: Bytes(100 << 20),
            started_on: facts(1, 2, 0, 1000),
            left: Left::default(),
            rules: Rules::default(),
        },
        used_cores: 1.0,
        waiting_cores: 0.0,
        excess_cores: 0.5,
        mflops_here: 1000.0,
        ran: Duration::from_secs(120),
        image: Bytes(100 << 20),
    }
}

fn at(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn where_the_network_matters_the_fastest_node_is_not_the_best() {
    // n2 computes twice as fast, behind a modem; n3 is near.
    let candidates = [node(2, 400, 2000, 50e3), node(3, 400, 1200, 50e6), node(4, 0, 1000, 9e6)];
    let decision = decide(&situation(), &candidates, at(0));
    assert_eq!(decision.go, Some(NodeId([3; 32])));
    assert!(decision.why.starts_with("n3: rank 0.80"), "{}", decision.why);
    assert!(decision.why.contains("by compute alone it would be n2"), "{}", decision.why);
    let order: Vec<_> = decision.weighed.iter().map(|weighed| weighed.name.as_str()).collect();
    assert_eq!(order, ["n3", "n2", "n4"]);
}

#[test]
fn an_app_that_waits_here_goes_where_it_would_not() {
    // It gets a quarter of a core here, and waits for the rest of one.
    let waits =
        Situation { used_cores: 0.25, waiting_cores: 0.75, excess_cores: 0.0, ..situation() };
    let candidates = [node(2, 400, 1000, 50e6), node(3, 0, 1000, 50e6)];
    assert_eq!(decide(&waits, &candidates, at(0)).go, Some(NodeId([2; 32])));
    assert_eq!(decide(&waits, &candidates[1..], at(0)).go, None);
    let content = Situation { waiting_cores: 0.0, ..waits };
    assert_eq!(decide(&content, &candidates, at(0)).go, None);
}

#[test]
fn a_move_that_costs_more_than_it_gains_is_not_made() {
    let decision = decide(&situation(), &[node(2, 400, 1000, 100e3)], at(0));
    assert_eq!(decision.go, None);
    assert!(
        decision.why.starts_with("moving would cost more than it gains: to n2"),
        "{}",
        decision.why
    );
    let decision = decide(&situation(), &[node(2, 0, 1000, 50e6)], at(0));
    assert_eq!(decision.go, None);
    assert!(decision.why.starts_with("no node would do better: n2"), "{}", decision.why);
    let decision = decide(&situation(), &[], at(0));
    assert!(decision.go.is_none() && decision.why.contains("no other node"), "{}", decision.why);
}

#[test]
fn a_liar_does_not_win_against_what_was_measured() {
    let honest = node(2, 200, 1000, 50e6);
    let mut liar = node(3, 6400, 1_000_000, 50e6);
    liar.standing = crate::Standing::default();
    liar.standing.observe_work(200.0);
    let decision = decide(&situation(), &[honest.clone(), liar.clone()], at(0));
    assert_eq!(decision.go, Some(NodeId([2; 32])));
    // Also one that is quick when asked, but gives apps nothing.
    let mut liar = node(3, 6400, 1500, 50e6);
    for _ in 0..10 {
        liar.standing.observe_result(64.0, 1.0, 0.05);
    }
    liar.facts.as_mut().unwrap().idle_centicores = 400;
    let decision = decide(&situation(), &[honest, liar], at(0));
    assert_eq!(decision.go, Some(NodeId([2; 32])));
}

/// An app that is over its limit everywhere, on two equal nodes whose loads wander.
#[test]
fn between_two_equal_nodes_it_does_not_bounce() {
    for seed in 0..200u64 {
        let mut seed = seed * 7919 + 1;
        let mut random = |most: u32| {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as u32 % most
        };
        let mut situation = situation();
        situation.excess_cores = 0.5;
        let mut moves = 0;
        for half_minute in 0..240 {
            let now = at(30 * half_minute);
            situation.ran = now;
            let wander = |random: &mut dyn FnMut(u32) -> u32| 90 + random(21);
            let (a, b) = (wander(&mut random), wander(&mut random));
            let candidates = [node(1, a, 1000, 50e6), node(2, b, 1000, 50e6)];
            let decision = decide(&situation, &candidates, now);
            if let Some(go) = decision.go {
                let left = situation.needs.host;
                situation.needs.left.note(left, situation.used_cores * 1000.0, now);
                situation.needs.host = go;
                moves += 1;
            }
        }
        assert!(moves <= 1, "seed {seed}: it moved {moves} times in two hours");
    }
}

proptest! {
    #[test]
    fn no_absurd_figure_wins_a_rank(
        idle in any::<u32>(), mflops in any::<u32>(), rate in any::<f64>(), used in any::<f64>(),
        image in any::<u64>(), kept in any::<f64>(),
    ) {
        let mut absurd = node(2, idle, mflops, rate);
        absurd.standing.observe_result(kept, kept, kept);
        let mut situation = situation();
        if used.is_finite() {
            situation.used_cores = used.abs().min(1e6);
        }
        situation.image = Bytes(image);
        let decision = decide(&situation, &[absurd, node(3, 400, 1000, 50e6)], at(0));
        for weighed in &decision.weighed {
            if let Ok(weight) = &weighed.outcome {
                prop_assert!((0.0..=1.0).contains(&weight.rank), "{weight:?}");
                prop_assert!(weight.mflops.is_finite() && weight.downtime_s.is_finite());
            }
        }
    }

    #[test]
    fn a_refused_node_is_never_chosen_and_more_is_never_worse(
        nodes in proptest::collection::vec((0u32..800, 1u32..4000, 1e3f64..1e9, any::<bool>()), 1..12),
        pick in any::<prop::sample::Index>(),
    ) {
        let mut candidates: Vec<Candidate> = nodes
            .iter()
            .enumerate()
            .map(|(number, (idle, mflops, rate, silent))| {
                let mut one = node(number as u8 + 2, *idle, *mflops, *rate);
                if *silent {
                    one.facts = None;
                }
                one
            })
            .collect();
        let decision = decide(&situation(), &candidates, at(0));
        let weight_of = |decision: &Decision, node: NodeId| {
            let found = decision.weighed.iter().find(|weighed| weighed.node == node);
            found.and_then(|weighed| weighed.outcome.clone().ok())
        };
        if let Some(go) = decision.go {
            prop_assert!(weight_of(&decision, go).is_some());
        }
        // The chosen one stays chosen when its way gets faster.
        let index = pick.index(candidates.len());
        let chosen = candidates[index].node;
        let before = weight_of(&decision, chosen).map(|weight| weight.rank);
        if let Some(way) = &mut candidates[index].link.way {
            way.bytes_per_s *= 3.0;
        }
        let after = weight_of(&decide(&situation(), &candidates, at(0)), chosen);
        if let (Some(before), Some(after)) = (before, after) {
            prop_assert!(after.rank >= before - 1e-9);
        }
    }
}

use phantom_broker::{Estimate, Link, Rules, Situation, decide};
use phantom_model::{Bytes, Capability, NodeFacts, Policy};
use proptest::prelude::*;

use super::*;

fn facts(id: u8) -> NodeFacts {
    NodeFacts {
        node: NodeId([id; 32]),
        name: format!("n{id}"),
        version: String::new(),
        arch: "x86_64".into(),
        kernel: "6.12".into(),
        cpu_flags: vec!["avx2".into()],
        cores: 4,
        idle_centicores: 400,
        mflops: 1000,
        load_centi: 0,
        memory_total: Bytes(8 << 30),
        memory_free: Bytes(4 << 30),
        capabilities: vec![Capability::Checkpoint, Capability::Files],
        canary: String::new(),
        criu_version: Some(40_200),
        criu_restores_job_control: true,
    }
}

fn candidate(facts: NodeFacts) -> Candidate {
    let mut candidate = Candidate::new(facts.node, &facts.name.clone(), Some(facts));
    let way = Estimate { bytes_per_s: 100e6, doubt: 1.0, age: Duration::ZERO };
    candidate.link = Link { way: Some(way), rtt: Some(Duration::from_millis(1)) };
    candidate
}

fn situation(excess_cores: f64) -> Situation {
    let text = "[[place]]\nwho=[\"everybody\"]\nnodes=[\"n5\"]\nallow=false";
    let policy: Policy = text.parse().unwrap();
    let rules = Rules { policy: policy.into(), home: "n1".to_owned(), ..Rules::default() };
    Situation {
        needs: Needs {
            host: NodeId([1; 32]),
            home: NodeId([1; 32]),
            resident: Bytes(100 << 20),
            started_on: facts(1),
            left: Default::default(),
            rules,
        },
        used_cores: 1.0,
        waiting_cores: 0.0,
        excess_cores,
        mflops_here: 1000.0,
        ran: Duration::from_secs(600),
        image: Bytes(100 << 20),
    }
}

fn diagnose(situation: &Situation, candidates: &[Candidate]) -> (Diagnosis, Decision) {
    let decision = decide(situation, candidates, Duration::ZERO);
    (of_app(&situation.needs, &decision, candidates), decision)
}

#[test]
fn each_thing_that_an_app_asks_is_counted_with_its_reasons() {
    let mut small = facts(2);
    small.memory_free = Bytes(200 << 20);
    let mut other = facts(3);
    other.arch = "aarch64".into();
    other.cpu_flags.clear();
    let silent = Candidate::new(NodeId([4; 32]), "n4", None);
    let all = [candidate(facts(1)), candidate(small), candidate(other), silent]
        .into_iter()
        .chain([5, 6].map(|id| candidate(facts(id))));
    let (found, _) = diagnose(&situation(0.8), &all.collect::<Vec<_>>());
    assert_eq!((found.nodes, found.matching, &found.names[..]), (5, 1, &["n6".to_owned()][..]));
    let part = |asks: &str| found.parts.iter().find(|part| part.asks == asks).unwrap();
    let memory = part("FreeMemory >= 264");
    assert_eq!((memory.holds, memory.fails, memory.undefined), (3, 1, 1));
    assert_eq!(memory.reasons, ["n2 has 200 MiB of memory free, the move needs 264 MiB"]);
    assert_eq!(memory.instead.as_ref().unwrap().asks, "FreeMemory >= 200");
    assert_eq!(memory.instead.as_ref().unwrap().matching, 2);
    assert_eq!(
        part("Arch == \"x86_64\"").reasons,
        ["n3 is a aarch64 machine, the app needs x86_64"]
    );
    assert_eq!(part("the node answers").reasons, ["n4 does not answer"]);
    let policy = part("the policy lets it go there");
    assert!(policy.reasons[0].starts_with("n5 is not for it: "), "{policy:?}");
    // Two of them are kept by one thing each.
    let alone: Vec<_> = found.helps.iter().filter(|help| help.without.len() == 1).collect();
    assert_eq!(alone.len(), 2);
    assert!(alone.iter().all(|help| help.matching == 2));
}

#[test]
fn a_node_that_is_no_better_is_told_with_its_balance() {
    let mut busy = facts(2);
    (busy.idle_centicores, busy.load_centi) = (0, 1600);
    let (found, decision) = diagnose(&situation(0.0), &[candidate(facts(1)), candidate(busy)]);
    assert_eq!((found.matching, decision.go), (0, None));
    let gains = found.parts.last().unwrap();
    assert_eq!((gains.holds, gains.fails), (0, 1));
    assert!(gains.reasons[0].starts_with("n2: "), "{gains:?}");
}

#[test]
fn an_expression_is_taken_apart_and_misspelt_names_are_found() {
    let node = |name: &str, text: &str| (name.to_owned(), Ad::parse(text).unwrap());
    let nodes = [
        node("attic", "[ Memory = 8192; Idle = 4.0; Arch = \"x86_64\" ]"),
        node("cellar", "[ Memory = 2048; Idle = 1.0; Arch = \"x86_64\" ]"),
    ];
    let of = |text: &str| of_expression(&Expr::parse(text).unwrap(), &nodes);
    let found = of("MY.Memory >= 4096 && Idle > 5 && Arch == \"x86_64\"");
    let counts: Vec<_> = found.parts.iter().map(|part| (part.holds, part.fails)).collect();
    assert_eq!(counts, [(1, 1), (0, 2), (2, 0)]);
    assert_eq!(found.matching, 0);
    let instead = found.parts[1].instead.as_ref().unwrap();
    assert_eq!((&instead.asks[..], instead.matching), ("Idle >= 4.000000000000000E+00", 1));
    let found = of("Memroy > 10 || Nothing");
    assert_eq!((found.parts[0].undefined, found.unknown.len()), (2, 2));
    assert_eq!(found.unknown[0].like.as_deref(), Some("Memory"));
    assert_eq!(found.unknown[1].like, None);
    assert_eq!(of("Idle > 0").names, ["attic", "cellar"]);
}

#[test]
fn names_are_told_from_expressions() {
    for name in ["repl", "my-app.2", "8687415e"] {
        assert!(is_name(name), "{name}");
    }
    for expression in ["Idle > 2", "true", "!HasGpu", "FALSE"] {
        assert!(!is_name(expression), "{expression}");
    }
}

#[test]
fn what_another_node_says_is_bounded() {
    let part = WhyPart {
        asks: "x\u{1b}[2J".repeat(1000),
        holds: 0,
        fails: 0,
        undefined: 0,
        error: 0,
        reasons: vec!["y\n".to_owned(); 100],
        instead: None,
    };
    let help = |at| WhyHelp { without: vec![at], matching: 1 };
    let said = bounded(Diagnosis {
        names: vec!["n\r".to_owned(); 1000],
        parts: vec![part; 1000],
        helps: vec![help(3), help(700), help(usize::MAX)],
        ..Diagnosis::default()
    });
    assert_eq!((said.names.len(), said.parts.len(), said.helps.len()), (MATCHING, MOST_ROWS, 1));
    let text = format!("{}{}{}", said.names.concat(), said.parts[0].asks, said.parts[0].reasons[0]);
    assert!(!text.chars().any(char::is_control) && said.parts[0].reasons.len() == NAMED);
}

proptest! {
    /// What is told is what is done: the nodes that match are those the app could go to with a gain.
    #[test]
    fn those_that_match_are_those_that_can_take_it(
        nodes in proptest::collection::vec(
            (any::<bool>(), 0u64..600, any::<[bool; 4]>(), 0u32..500, 1u32..3000), 0..8),
        excess in 0.0..2.0f64,
    ) {
        let candidates: Vec<Candidate> = nodes.iter().enumerate().map(|(place, node)| {
            let (answers, free_mib, can, idle, mflops) = *node;
            let mut facts = facts(place as u8 + 1);
            facts.memory_free = Bytes(free_mib << 20);
            (facts.idle_centicores, facts.mflops) = (idle.min(400), mflops);
            facts.capabilities = [Capability::Checkpoint, Capability::Files]
                .into_iter().zip(can).filter_map(|(it, can)| can.then_some(it)).collect();
            if !can[2] { facts.arch = "aarch64".into() }
            if !can[3] { facts.cpu_flags.clear() }
            let mut candidate = candidate(facts);
            if !answers { candidate.facts = None }
            candidate
        }).collect();
        let situation = situation(excess);
        let (found, decision) = diagnose(&situation, &candidates);
        let able = decision.weighed.iter().filter(|it| it.outcome.as_ref().is_ok_and(|it| it.worth));
        prop_assert_eq!(found.matching, able.count());
        prop_assert_eq!(found.matching > 0, decision.go.is_some());
        prop_assert_eq!(found.nodes, decision.weighed.len());
        for part in &found.parts {
            prop_assert_eq!(part.holds + part.fails + part.undefined + part.error, found.nodes);
        }
    }
}

use super::*;
use crate::api::types::{UnknownName, WhyHelp, WhyInstead};

fn part(asks: &str, holds: usize, fails: usize) -> WhyPart {
    WhyPart {
        asks: asks.to_owned(),
        holds,
        fails,
        undefined: 0,
        error: 0,
        reasons: Vec::new(),
        instead: None,
    }
}

#[test]
fn an_app_that_stays_is_told_with_what_keeps_it() {
    let app = WhyApp {
        name: "repl".into(),
        host: "attic".into(),
        goes: None,
        decision: "no other node can take it: cellar has 200 MiB of memory free".into(),
        obstacles: Vec::new(),
    };
    let mut memory = part("FreeMemory >= 264", 0, 1);
    memory.reasons = vec!["cellar has 200 MiB of memory free, the move needs 264 MiB".into()];
    memory.instead = Some(WhyInstead { asks: "FreeMemory >= 200".into(), holds: 1, matching: 1 });
    let found = Diagnosis {
        nodes: 1,
        parts: vec![part("the node answers", 1, 0), memory],
        helps: vec![WhyHelp { without: vec![1], matching: 1 }],
        ..Diagnosis::default()
    };
    assert_eq!(
        of_app(&app, &found),
        "repl runs on attic and stays there: no other node can take it: cellar has 200 MiB of \
         memory free.\n\
         The other node is no better for it.\n  \
         FreeMemory >= 264 on 0 of 1:\n    \
         not cellar has 200 MiB of memory free, the move needs 264 MiB\n  \
         everywhere: the node answers\n\
         What would help:\n  \
         `FreeMemory >= 200` instead of `FreeMemory >= 264`: 1 would match\n  \
         without `FreeMemory >= 264`: 1 would match\n"
    );
}

#[test]
fn of_an_expression_it_says_how_many_match_and_what_nobody_says() {
    let found =
        Diagnosis { nodes: 20, matching: 18, names: vec!["a".into(); 16], ..Diagnosis::default() };
    assert!(headline(&found).starts_with("18 of 20 nodes match: a, a"), "{}", headline(&found));
    assert!(headline(&found).ends_with("and 2 more."), "{}", headline(&found));
    assert_eq!(
        headline(&Diagnosis { nodes: 3, ..Diagnosis::default() }),
        "None of 3 nodes matches."
    );
    let names = [("Memroy", Some("Memory")), ("Zeal", None)]
        .map(|(name, like)| UnknownName { name: name.into(), like: like.map(str::to_owned) });
    let found = Diagnosis { unknown: names.into(), ..Diagnosis::default() };
    assert_eq!(
        unknown(&found),
        "No node says `Memroy`; `Memory` is alike.\nNo node says `Zeal`.\n"
    );
}

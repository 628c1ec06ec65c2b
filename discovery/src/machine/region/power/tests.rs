//! Summaries of random sub-grids: they never miss who matches, and never grow.

use phantom_classad::Scope;
use proptest::prelude::*;

use super::*;

fn node(number: usize) -> NodeId {
    NodeId([number as u8; 32])
}

/// Attributes as an honest node, a strange one and a hostile one may say them.
fn any_ad() -> impl Strategy<Value = Ad> {
    let number = prop_oneof![
        4 => prop::sample::select(vec!["0", "0.25", "1", "2", "3.5", "7", "8", "100", "4096"]),
        2 => Just("TARGET.x"),
        1 => prop::sample::select(vec![
            "65536", "true", "-1", "1e300", "1.0/0", "\"many\"", "1 + 1", "undefined", "error",
            "real(\"NaN\")",
        ]),
    ];
    // Few names, so that queries are about them.
    let name = prop_oneof![
        4 => prop::sample::select(vec!["Idle", "Mflops", "LoadAvg", "GPUs"]),
        1 => prop::sample::select(vec!["Cpus", "Memory", "FreeMemory", "Disk", "FreeDisk"]),
    ];
    let word = prop::sample::select(vec![
        "\"x86_64\"",
        "\"ARM\"",
        "true",
        "false",
        "0",
        "{ \"a\" }",
        "TARGET.x ?: \"arm\"",
        "\"Ä\"",
    ]);
    let text = prop::sample::select(vec!["Arch", "OpSys", "HasGpu"]);
    let parts = prop::collection::vec((name, number), 0..6);
    (parts, prop::collection::vec((text, word), 0..4)).prop_map(|(numbers, words)| {
        let mut ad = Ad::default();
        for (name, text) in numbers.into_iter().chain(words) {
            ad.insert(name, Expr::parse(text).unwrap());
        }
        ad
    })
}

fn any_query() -> impl Strategy<Value = String> {
    let name = prop_oneof![
        4 => prop::sample::select(vec!["idle", "TARGET.Mflops", "LoadAvg", "GPUs", "Arch", "HasGpu"]),
        1 => prop::sample::select(vec!["Cpus", "Memory", "FreeDisk", "OpSys", "VO", "Nothing"]),
    ];
    let operator = prop::sample::select(vec!["<", "<=", ">", ">=", "==", "=?=", "!="]);
    let value = prop_oneof![
        3 => prop::sample::select(vec!["0", "1", "2.0", "3", "4", "8"]),
        1 => prop::sample::select(vec!["100", "5000", "1e308", "x"]),
        2 => prop::sample::select(vec!["true", "false", "\"arm\"", "\"X86_64\"", "\"ä\""]),
    ];
    let part = (name.clone(), operator, value)
        .prop_map(|(name, operator, value)| format!("{name} {operator} {value}"));
    let part = prop_oneof![4 => part, 1 => name.prop_map(str::to_owned)];
    prop::collection::vec(part, 1..3).prop_map(|parts| parts.join(" && "))
}

proptest! {
    #[test]
    fn whoever_matches_is_not_passed_over(
        ads in prop::collection::vec(any_ad(), 0..6),
        query in any_query(),
        x in prop::sample::select(vec!["1", "8", "\"arm\"", "true"]),
        split in 0usize..6,
    ) {
        let requirements = Expr::parse(&query).unwrap();
        let mut asking = Ad::default();
        asking.insert("Requirements", requirements.clone());
        asking.insert("VO", Value::from("arm"));
        asking.insert("x", Expr::parse(x).unwrap());
        let matching = ads.iter().filter(|ad| crate::machine::region::is_plausible(ad)).filter(|ad| {
            Scope::of(&asking).with_target(ad).attribute("requirements").is_true()
        });
        let need = Need::of(&requirements);
        let numbered = || ads.iter().enumerate().map(|(number, ad)| (node(number), ad));
        let whole = Summary::of(numbered());
        let count = matching.count();
        prop_assert!(whole.estimate(&need).most as usize >= count, "{query}: {count}");
        let mut merged = Summary::of(numbered().take(split));
        merged.merge(&Summary::of(numbered().skip(split)));
        prop_assert_eq!(&merged, &whole, "merging is as summing");
        let read = Summary::read(&whole.to_bytes()).unwrap();
        prop_assert_eq!(&read, &whole);
    }

    #[test]
    fn no_value_between_two_bounds_is_missed(
        values in prop::collection::vec(0u32..4000, 1..20),
        low in 0u32..4000,
        width in 0u32..40,
        comparison in prop::sample::select(vec!["<", "<=", ">", ">=", "=="]),
    ) {
        // In quarters, and some close together.
        let values: Vec<f64> = values.iter().map(|it| f64::from(it % (40 << (it % 5))) / 4.0).collect();
        let mut spread = Spread::default();
        values.iter().for_each(|value| spread.add(*value, 4.0));
        let low = f64::from(low % (40 << (low % 5))) / 4.0;
        let high = low + f64::from(width) / 4.0;
        let inside = values.iter().filter(|value| (low..=high).contains(*value)).count();
        prop_assert!(spread.between(low, high, 4.0).0 as usize >= inside);
        let ads: Vec<Ad> =
            values.iter().map(|it| Ad::parse(&format!("[ LoadAvg = {it:?} ]")).unwrap()).collect();
        let expr = Expr::parse(&format!("LoadAvg {comparison} {low:?}")).unwrap();
        let truth = ads.iter().filter(|ad| Scope::of(ad).eval(&expr).is_true()).count();
        let summary = Summary::of(ads.iter().map(|ad| (node(1), ad)));
        prop_assert!(summary.estimate(&Need::of(&expr)).most as usize >= truth);
    }

    #[test]
    fn hostile_numbers_win_nothing(ads in prop::collection::vec(any_ad(), 0..12)) {
        let all = Summary::of(ads.iter().map(|ad| (node(1), ad)));
        let power = all.power();
        prop_assert_eq!((power.nodes + power.refused) as usize, ads.len());
        prop_assert!(power.free_centicores <= power.nodes as u64 * 819_200);
        prop_assert!(power.is_possible() && all.is_possible());
        prop_assert!(all.estimate(&Need::default()).likely.is_finite());
    }

    #[test]
    fn a_difference_leads_to_the_same(
        before in prop::collection::vec(any_ad(), 0..12),
        after in prop::collection::vec(any_ad(), 0..12),
    ) {
        let old = Summary::of(before.iter().map(|ad| (node(1), ad)));
        let new = Summary::of(after.iter().map(|ad| (node(1), ad)));
        let difference = new.difference(&old);
        prop_assert_eq!(old.apply(&difference), Some(new.clone()));
        if old != new {
            prop_assert_eq!(new.apply(&difference), None, "to another one");
        }
        let small = postcard::to_stdvec(&difference).unwrap().len();
        prop_assert!(small <= new.to_bytes().len() + 64);
    }

    #[test]
    fn any_bytes_are_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..2200),
        at in 0usize..1500,
        change in any::<u8>(),
    ) {
        let need = Need::of(&Expr::parse("Idle >= 2 && Arch == \"x\"").unwrap());
        let ad = Ad::parse("[ Cpus = 8; Idle = 3; Arch = \"x\"; Mflops = 1000 ]").unwrap();
        let mut changed = Summary::of([(node(1), &ad)]).to_bytes();
        let at = at % changed.len();
        changed[at] = change;
        for bytes in [bytes, changed] {
            if let Ok(read) = Summary::read(&bytes) {
                let estimate = read.estimate(&need);
                prop_assert!(estimate.likely.is_finite() && estimate.most <= MAX_NODES);
                let mut merged = read.clone();
                merged.merge(&read);
                prop_assert!(merged.to_bytes().len() <= MAX_SUMMARY);
                prop_assert!(Summary::read(&merged.to_bytes()).is_ok());
            }
        }
    }
}

#[test]
fn the_largest_summary_is_bounded() {
    let spread =
        Spread { open: MAX_NODES, least: f64::MAX, most: f64::MAX, counts: [u16::MAX; BUCKETS] };
    let most = u64::MAX;
    let power = Power {
        nodes: u32::MAX,
        refused: u32::MAX,
        cores: most,
        free_centicores: most,
        peak_mflops: most,
        free_mflops: most,
        memory_mib: most,
        free_memory_mib: most,
        disk_mib: most,
        free_disk_mib: most,
    };
    let words = Words([[255; 32]; WORDS]);
    let largest = Summary { power, spreads: [spread; KINDS.len()], words }.to_bytes().len();
    println!("the largest summary has {largest} bytes");
    assert!(largest <= MAX_SUMMARY);
}

#[test]
fn power_is_summed_and_tells_sub_grids_apart() {
    let ad = |cpus: u32, idle: f64, speed: u32, free: u32| {
        Ad::parse(&format!(
            "[ Cpus = {cpus}; Idle = {idle}; Mflops = {speed}; Memory = 8192; FreeMemory = {free}; \
             Disk = 1000; FreeDisk = 500; Arch = \"x86_64\" ]"
        ))
        .unwrap()
    };
    let ads = [ad(8, 6.0, 1000, 4096), ad(4, 0.5, 2000, 1024), ad(4, 9.0, 2000, 1024)];
    let summary = Summary::of(ads.iter().map(|ad| (node(1), ad)));
    let power = *summary.power();
    assert_eq!((power.nodes, power.refused), (2, 1), "more idle cores than cores");
    assert_eq!((power.cores, power.free_centicores), (12, 650));
    assert_eq!((power.peak_mflops, power.free_mflops), (16_000, 7_000));
    assert_eq!((power.free_memory_mib, power.free_disk_mib), (5120, 1000));
    let most = |text: &str| summary.estimate(&Need::of(&Expr::parse(text).unwrap())).most;
    assert_eq!(most("Idle >= 4"), 1);
    assert_eq!(most("Idle >= 7"), 0);
    assert_eq!(most("Idle >= 4 && Arch == \"aarch64\""), 0);
    assert_eq!(most("Arch == \"X86_64\" && FreeMemory > 512"), 2);
    assert_eq!(most("HasGpu"), 0);
}

#[test]
fn estimates_are_near_the_truth() {
    let ads: Vec<Ad> = (0..100)
        .map(|number| {
            let (cpus, memory) = (4 + number % 29, 4096 * (1 + number % 8));
            let (idle, free) = (cpus * (number % 5) / 4, memory * (number % 7) / 7);
            Ad::parse(&format!(
                "[ Cpus = {cpus}; Idle = {idle}; Memory = {memory}; FreeMemory = {free} ]"
            ))
            .unwrap()
        })
        .collect();
    let summary = Summary::of(ads.iter().map(|ad| (node(1), ad)));
    for text in ["Idle >= 6", "Idle >= 12 && FreeMemory >= 8000", "FreeMemory > 20000", "Cpus < 10"]
    {
        let expr = Expr::parse(text).unwrap();
        let truth = ads.iter().filter(|ad| Scope::of(ad).eval(&expr).is_true()).count() as f64;
        let estimate = summary.estimate(&Need::of(&expr));
        println!("{text}: {truth} are, {estimate:?} guessed");
        assert!((estimate.likely - truth).abs() <= 0.3 * truth + 4.0, "{text}");
    }
}

#[test]
fn what_no_members_can_have_is_not_believed() {
    let ad = Ad::parse("[ Cpus = 8; Idle = 6; Mflops = 1000; Memory = 4096 ]").unwrap();
    let good = Summary::of((0..3).map(|number| (node(number), &ad)));
    type Change = fn(&mut Summary);
    let changes: [(&str, Change); 6] = [
        ("more cores than three can have", |it| it.power.cores = u64::MAX),
        ("more free storage", |it| it.power.free_disk_mib = u64::MAX),
        ("more members than there are", |it| it.power.nodes = MAX_NODES + 1),
        ("the least above the most", |it| it.spreads[IDLE].least = 7.0),
        ("a value that is none", |it| it.spreads[IDLE].most = f64::NAN),
        ("more values than members", |it| it.spreads[IDLE].open = 2),
    ];
    assert!(Summary::read(&good.to_bytes()).is_ok());
    for (what, change) in changes {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(Summary::read(&bad.to_bytes()).is_err(), "{what}");
        assert_eq!(good.apply(&bad.difference(&good)), None, "{what}");
    }
}

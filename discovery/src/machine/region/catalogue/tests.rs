//! The catalogue and its reporters over a network that loses, and against reports that lie.

use phantom_classad::{Ad, Expr};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::machine::region::report::Reporter;

fn node(number: u8) -> NodeId {
    NodeId([number; 32])
}

fn subgrid(number: u8) -> SubgridId {
    SubgridId([number; 32])
}

fn mandate(term: u64) -> Mandate {
    Mandate { generation: 1, term }
}

fn summary(idle: u32, count: usize) -> Summary {
    let ad = Ad::parse(&format!("[ Cpus = 64; Idle = {idle}; Mflops = 1000 ]")).unwrap();
    Summary::of((0..count).map(|_| (node(1), &ad)))
}

fn report(of: u8, term: u64, summary: &Summary) -> Report {
    Report {
        subgrid: subgrid(of),
        mandate: mandate(term),
        coordinate: Coordinate::default(),
        digest: summary.digest(),
        content: Content::Whole(Box::new(summary.clone())),
    }
}

fn need(text: &str) -> Need {
    Need::of(&Expr::parse(text).unwrap())
}

const NOW: Duration = Duration::from_secs(100);

#[test]
fn only_approved_sub_grids_with_the_latest_mandate_are_kept() {
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved([subgrid(1), subgrid(2)]);
    let first = summary(8, 10);
    let stranger = catalogue.handle_report(node(3), &report(3, 1, &first), NOW);
    assert!(matches!(stranger, Err(Refused::NotApproved(_))));
    catalogue.handle_report(node(1), &report(1, 4, &first), NOW).unwrap();
    // Deposed, or two in the same term: neither counts.
    for (from, term) in [(9, 3), (9, 4)] {
        let late = catalogue.handle_report(node(from), &report(1, term, &first), NOW);
        assert!(matches!(late, Err(Refused::Outdated { .. })));
    }
    assert_eq!(catalogue.subgrid_of(node(1)), Some(subgrid(1)));
    catalogue.handle_report(node(9), &report(1, 5, &first), NOW).unwrap();
    assert_eq!(catalogue.subgrid_of(node(9)), Some(subgrid(1)));
    assert_eq!(catalogue.subgrid_of(node(1)), None);
    // What is not refreshed is out.
    assert_eq!(catalogue.poll_timeout(), Some(NOW + EXPIRES));
    catalogue.handle_timeout(NOW + EXPIRES);
    assert_eq!((catalogue.iter().count(), catalogue.subgrid_of(node(9))), (0, None));
}

#[test]
fn a_difference_to_what_is_not_known_asks_for_the_whole() {
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved([subgrid(1)]);
    let (old, new) = (summary(8, 10), summary(3, 12));
    let changed = Report { content: Content::Changed(new.difference(&old)), ..report(1, 1, &new) };
    let receipt = catalogue.handle_report(node(1), &changed, NOW).unwrap();
    assert_eq!(receipt.digest, None);
    catalogue.handle_report(node(1), &report(1, 1, &old), NOW).unwrap();
    let receipt = catalogue.handle_report(node(1), &changed, NOW).unwrap();
    assert_eq!(receipt.digest, Some(new.digest()));
    // A digest that is not of what came.
    let wrong = Report { digest: [7; 8], ..report(1, 1, &old) };
    let receipt = catalogue.handle_report(node(1), &wrong, NOW).unwrap();
    assert_eq!(receipt.digest, Some(new.digest()));
}

#[test]
fn candidates_are_those_that_can_by_likelihood_and_nearness() {
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved((1..=4).map(subgrid));
    let place = |x: f32| Coordinate::new([x, 0.0, 0.0], 0.1, 0.1).unwrap();
    for (of, idle, count, x) in
        [(1, 32, 40, 30.0), (2, 32, 40, 5.0), (3, 2, 90, 1.0), (4, 32, 3, 1.0)]
    {
        let report = Report { coordinate: place(x), ..report(of, 1, &summary(idle, count)) };
        catalogue.handle_report(node(of), &report, NOW).unwrap();
    }
    let ids = |catalogue: &Catalogue| -> Vec<u8> {
        let found = catalogue.candidates(&need("Idle >= 16"), 2, Some(&place(0.0)), NOW);
        found.iter().map(|candidate| candidate.subgrid.0[0]).collect()
    };
    assert_eq!(ids(&catalogue), [2, 1, 4]);
    catalogue.handle_late(subgrid(2), NOW);
    assert_eq!(ids(&catalogue), [1, 4, 2]);
    assert!(catalogue.candidates(&need("Idle >= 33"), 1, None, NOW).is_empty());
}

#[test]
fn reports_come_through_losses_and_a_new_region_peer_is_told_all() {
    let seed = crate::sim::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let ms = Duration::from_millis;
    let mut catalogue = Catalogue::new(ms(0));
    catalogue.handle_approved((1..=8).map(subgrid));
    let mut region_peer = node(100);
    let mut reporters: Vec<_> = (1..=8u8)
        .map(|of| {
            let mut one = Reporter::new(subgrid(of), mandate(1), rng.random(), ms(0));
            one.handle_region_peer(Some(region_peer), ms(0));
            one
        })
        .collect();
    let mut latest: Vec<Summary> = vec![Summary::default(); 8];
    let mut wire: Vec<(Duration, usize, Receipt)> = Vec::new();
    let (mut sent, mut whole, mut bytes) = (0u32, 0u32, 0usize);
    let mut now = ms(0);
    while now < Duration::from_secs(300) {
        now += ms(50);
        if now == Duration::from_secs(150) {
            // Another takes over with nothing.
            region_peer = node(101);
            catalogue = Catalogue::new(now);
            catalogue.handle_approved((1..=8).map(subgrid));
            reporters.iter_mut().for_each(|one| one.handle_region_peer(Some(region_peer), now));
        }
        catalogue.handle_timeout(now);
        for (of, reporter) in reporters.iter_mut().enumerate() {
            let quiet = now >= Duration::from_secs(280);
            if !quiet && rng.random_bool(0.005) {
                latest[of] = summary(rng.random_range(0..60), rng.random_range(1..90));
                reporter.handle_summary(latest[of].clone(), now);
            }
            if reporter.poll_timeout().is_some_and(|at| at <= now)
                && let Some((to, report)) = reporter.handle_timeout(now)
            {
                sent += 1;
                whole += u32::from(matches!(report.content, Content::Whole(_)));
                bytes += report.to_bytes().len();
                assert!(report.to_bytes().len() <= MAX_REPORT);
                let lost = rng.random_bool(0.1);
                let read = Report::read(&report.to_bytes()).unwrap();
                if to == region_peer && !lost {
                    let receipt = catalogue.handle_report(node(of as u8 + 1), &read, now).unwrap();
                    if !rng.random_bool(0.1) {
                        let late = ms(rng.random_range(1..900));
                        wire.push((now + late, of, receipt));
                    }
                }
            }
        }
        let (due, rest): (Vec<_>, Vec<_>) = wire.into_iter().partition(|(at, ..)| *at <= now);
        wire = rest;
        for (_, of, receipt) in due {
            reporters[of].handle_receipt(region_peer, &receipt, now);
        }
    }
    println!("{sent} reports, {whole} of them whole, {bytes} bytes");
    for (of, latest) in latest.iter().enumerate() {
        let entry = catalogue.entry(subgrid(of as u8 + 1)).expect("it is known");
        assert_eq!(&entry.summary, latest, "seed {seed}, sub-grid {of}");
    }
    assert!(sent < 8 * 300 && whole < sent / 2, "seed {seed}: {sent}, {whole}");
}

proptest! {
    #[test]
    fn any_bytes_are_no_harm(
        bytes in prop::collection::vec(any::<u8>(), 0..2600),
        changes in prop::collection::vec((0usize..1200, any::<u8>()), 0..4),
    ) {
        let mut catalogue = Catalogue::new(NOW);
        catalogue.handle_approved([subgrid(1)]);
        let mut changed = report(1, 1, &summary(8, 10)).to_bytes();
        for (at, byte) in changes {
            let at = at % changed.len();
            changed[at] = byte;
        }
        for bytes in [bytes, changed] {
            let _ = Receipt::read(&bytes);
            if let Some(region) = RegionReport::read(&bytes) {
                catalogue.handle_region(node(4), &region, NOW);
            }
            if let Some(report) = Report::read(&bytes) {
                let _ = catalogue.handle_report(node(1), &report, NOW);
            }
        }
        prop_assert!(catalogue.summary().to_bytes().len() <= 2048);
        for (_, entry) in catalogue.iter() {
            prop_assert!(Summary::read(&entry.summary.to_bytes()).is_ok());
            prop_assert!(entry.coordinate.checked().is_some());
        }
        let found = catalogue.candidates(&need("Idle >= 1"), 3, Some(&Coordinate::default()), NOW);
        prop_assert!(found.len() <= 1);
    }
}

#[test]
fn floods_of_regions_are_bounded() {
    let mut catalogue = Catalogue::new(NOW);
    for number in 0..200u64 {
        let region = RegionId(number.to_be_bytes());
        catalogue.handle_region(node(7), &RegionReport { region, summary: summary(4, 3) }, NOW);
    }
    assert_eq!(catalogue.regions(&need("Idle >= 1")).len(), MAX_REGIONS);
    catalogue.handle_timeout(NOW + REGION_EXPIRES);
    assert!(catalogue.regions(&need("Idle >= 1")).is_empty());
}

#[test]
fn who_takes_over_says_all_of_it() {
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved([subgrid(1)]);
    let known = summary(8, 10);
    catalogue.handle_report(node(1), &report(1, 1, &known), NOW).unwrap();
    let same = Report { content: Content::Same, ..report(1, 2, &known) };
    let receipt = catalogue.handle_report(node(9), &same, NOW).unwrap();
    assert_eq!(receipt.digest, None);
    assert_eq!(catalogue.subgrid_of(node(1)), Some(subgrid(1)));
}

#[test]
fn what_cannot_be_true_is_refused_of_a_sub_grid_and_of_a_region() {
    // No member, and so many cores.
    let mut bytes = summary(8, 10).to_bytes();
    assert_eq!(bytes[0], 10);
    bytes[0] = 0;
    let impossible: Summary = postcard::from_bytes(&bytes).unwrap();
    let mut catalogue = Catalogue::new(NOW);
    catalogue.handle_approved([subgrid(1)]);
    let refused = catalogue.handle_report(node(1), &report(1, 1, &impossible), NOW);
    assert!(matches!(refused, Err(Refused::Impossible(_))));
    let mut bytes = postcard::to_stdvec(&Coordinate::default()).unwrap();
    bytes[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    let coordinate = postcard::from_bytes(&bytes).unwrap();
    let nowhere = Report { coordinate, ..report(1, 1, &summary(8, 10)) };
    let refused = catalogue.handle_report(node(1), &nowhere, NOW);
    assert!(matches!(refused, Err(Refused::Impossible(_))));
    let region = RegionReport { region: RegionId([1; 8]), summary: impossible };
    assert!(!catalogue.handle_region(node(7), &region, NOW));
    assert!(!catalogue.is_region_peer(node(7)));
}

#[test]
fn a_receipt_counts_from_the_region_peer_for_this_sub_grid_and_of_what_was_sent() {
    let known = summary(8, 10);
    let good = Receipt { subgrid: subgrid(1), digest: Some(known.digest()) };
    let next = |from: u8, receipt: Option<Receipt>| {
        let mut reporter = Reporter::new(subgrid(1), mandate(1), [1; 32], NOW);
        reporter.handle_region_peer(Some(node(7)), NOW);
        reporter.handle_summary(known.clone(), NOW);
        let now = reporter.poll_timeout().unwrap();
        let (_, first) = reporter.handle_timeout(now).unwrap();
        assert!(matches!(first.content, Content::Whole(_)));
        if let Some(receipt) = receipt {
            reporter.handle_receipt(node(from), &receipt, now);
        }
        let now = reporter.poll_timeout().unwrap();
        reporter.handle_timeout(now).unwrap().1.content
    };
    assert_eq!(next(7, Some(good.clone())), Content::Same);
    for (from, receipt) in [
        (8, Some(good.clone())),
        (7, Some(Receipt { subgrid: subgrid(2), ..good.clone() })),
        (7, Some(Receipt { digest: Some([0; 8]), ..good.clone() })),
        (7, Some(Receipt { digest: None, ..good })),
        (7, None),
    ] {
        assert!(matches!(next(from, receipt), Content::Whole(_)));
    }
    // Nothing is known after one that was lost, though one before was received.
    let mut reporter = Reporter::new(subgrid(1), mandate(1), [1; 32], NOW);
    reporter.handle_region_peer(Some(node(7)), NOW);
    for round in 0..3u64 {
        let summary = summary(8, 10 + round as usize);
        let digest = Some(summary.digest());
        let now = NOW + Duration::from_secs(20 * round);
        reporter.handle_summary(summary, now);
        let now = reporter.poll_timeout().unwrap().max(now);
        let (_, report) = reporter.handle_timeout(now).unwrap();
        match round {
            0 => reporter.handle_receipt(node(7), &Receipt { subgrid: subgrid(1), digest }, now),
            1 => assert!(matches!(report.content, Content::Changed(_))),
            _ => assert!(matches!(report.content, Content::Whole(_))),
        }
    }
}

#[test]
fn longer_reports_are_not_read() {
    let rows = vec![(0u8, [0u8; 32]); 100];
    let power = crate::machine::region::power::Power::default();
    let bytes = postcard::to_stdvec(&([0u8; 8], power, Vec::<u8>::new(), rows)).unwrap();
    let difference = postcard::from_bytes(&bytes).unwrap();
    let long = Report { content: Content::Changed(difference), ..report(1, 1, &summary(1, 1)) };
    assert!(long.to_bytes().len() > MAX_REPORT);
    assert_eq!(Report::read(&long.to_bytes()), None);
}

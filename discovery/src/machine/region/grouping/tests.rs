//! Sub-grids that are near are grouped, and stay so while their coordinates tremble.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;

fn subgrid(number: usize) -> SubgridId {
    let mut id = [0; 32];
    id[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    SubgridId(id)
}

fn site(x: f32, y: f32) -> Site {
    Site { coordinate: Coordinate::new([x, y, 0.0], 0.5, 0.2).unwrap(), named: None }
}

/// Sub-grids in towns 100 ms apart.
fn towns(rng: &mut StdRng, towns: usize, each: usize, spread: f32) -> BTreeMap<SubgridId, Site> {
    (0..towns * each)
        .map(|number| {
            let town = (number % towns) as f32 * 100.0;
            let mut around = || rng.random_range(-spread..=spread);
            (subgrid(number), site(town + around(), around()))
        })
        .collect()
}

#[test]
fn towns_become_regions_and_trembling_changes_nothing() {
    let seed = crate::sim::seed();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut sites = towns(&mut rng, 5, 20, 8.0);
    let mut grouping = Grouping::default();
    assert_eq!(grouping.handle_look(&sites).len(), 100);
    let first = grouping.regions().clone();
    let distinct: std::collections::BTreeSet<_> = first.values().collect();
    assert_eq!(distinct.len(), 5, "seed {seed}");
    for look in 0..200 {
        for site in sites.values_mut() {
            let mut at = || rng.random_range(-1.0f32..1.0);
            let (x, y) = (at(), at());
            let middle = Coordinate::new([x, y, 0.0], 0.0, 0.2).unwrap();
            let moved = Coordinate::middle([&site.coordinate, &middle]).unwrap();
            // Half of the way to a place near the origin would be a move; so it is put back.
            let there = site.coordinate;
            site.coordinate = if there.distance(&moved) < 3.0 { moved } else { there };
        }
        let changed = grouping.handle_look(&sites);
        assert!(changed.is_empty(), "seed {seed}, look {look}: {changed:?}");
    }
}

#[test]
fn between_two_regions_nobody_flaps() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut grouping = Grouping::default();
    let mut sites: BTreeMap<_, _> = (0..10)
        .map(|number| (subgrid(number), site(if number < 5 { 0.0 } else { 44.0 }, 0.0)))
        .collect();
    sites.insert(subgrid(99), site(22.0, 0.0));
    grouping.handle_look(&sites);
    let mut changes = 0;
    for _ in 0..1000 {
        sites.insert(subgrid(99), site(22.0 + rng.random_range(-3.0..3.0), 0.0));
        changes += grouping.handle_look(&sites).len();
    }
    assert_eq!(changes, 0);
}

#[test]
fn who_moves_away_changes_region_once_and_those_that_part_do_so_together() {
    // All begin at the origin, as coordinates do, and part while they converge.
    let mut grouping = Grouping::default();
    let at = |step: f32| -> BTreeMap<_, _> {
        (0..20).map(|number| (subgrid(number), site((number % 2) as f32 * step, 0.0))).collect()
    };
    grouping.handle_look(&at(0.0));
    let distinct = |grouping: &Grouping| {
        grouping.regions().values().collect::<std::collections::BTreeSet<_>>().len()
    };
    assert_eq!(distinct(&grouping), 1);
    let mut changes = 0;
    for step in 0..60 {
        changes += grouping.handle_look(&at((step * 10).min(120) as f32)).len();
    }
    println!("{changes} changes until 20 sub-grids were in two regions");
    let regions = grouping.regions();
    assert_eq!(distinct(&grouping), 2);
    for (number, other) in [(0, 2), (1, 3), (0, 18), (1, 19)] {
        assert_eq!(regions.get(&subgrid(number)), regions.get(&subgrid(other)));
    }
    assert!(changes <= 30, "{changes}");
}

#[test]
fn what_an_admin_has_named_counts() {
    let region = RegionId::named("uni.example");
    let mut sites: BTreeMap<_, _> =
        (0..6).map(|number| (subgrid(number), site(0.0, number as f32))).collect();
    sites.get_mut(&subgrid(3)).unwrap().named = Some(region);
    let mut grouping = Grouping::default();
    grouping.handle_look(&sites);
    assert_eq!(grouping.regions().get(&subgrid(3)), Some(&region));
    sites.get_mut(&subgrid(3)).unwrap().named = Some(RegionId::named("other"));
    grouping.handle_look(&sites);
    assert_ne!(grouping.regions().get(&subgrid(3)), Some(&region));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_comes_to_rest(
        places in prop::collection::vec((-200f32..200.0, -200f32..200.0), 1..60),
        begin in prop::collection::vec(0u8..5, 60),
    ) {
        let sites: BTreeMap<_, _> = places.iter().enumerate()
            .map(|(number, (x, y))| (subgrid(number), site(*x, *y))).collect();
        // From nothing, and from any assignment whatever.
        let any = sites.keys().zip(begin).map(|(id, at)| (*id, RegionId([at; 8]))).collect();
        for mut grouping in [Grouping::default(), Grouping::new(any)] {
            // A wish is followed after three looks: quiet for longer is at rest.
            let (mut quiet, mut looks) = (0, 0);
            while quiet < 8 {
                quiet = if grouping.handle_look(&sites).is_empty() { quiet + 1 } else { 0 };
                looks += 1;
                prop_assert!(looks < 400, "it still changes");
            }
            let before = grouping.regions().clone();
            prop_assert_eq!(before.len(), sites.len());
            let mut again = Grouping::new(before.clone());
            again.handle_look(&sites);
            prop_assert_eq!(again.regions(), &before, "a new region-peer goes on from it");
        }
    }
}

#[test]
fn who_is_elsewhere_for_a_moment_stays_and_who_founds_again_founds_another() {
    let mut sites: BTreeMap<_, _> = (0..6)
        .map(|number| (subgrid(number), site(if number < 3 { 0.0 } else { 200.0 }, 0.0)))
        .collect();
    let mut grouping = Grouping::default();
    grouping.handle_look(&sites);
    let before = grouping.regions().clone();
    sites.insert(subgrid(1), site(200.0, 0.0));
    for _ in 1..LOOKS {
        assert!(grouping.handle_look(&sites).is_empty());
    }
    sites.insert(subgrid(1), site(0.0, 0.0));
    assert!(grouping.handle_look(&sites).is_empty());
    sites.insert(subgrid(1), site(200.0, 0.0));
    (0..LOOKS).for_each(|_| drop(grouping.handle_look(&sites)));
    assert_eq!(grouping.regions()[&subgrid(1)], before[&subgrid(4)]);

    // The one around which a region has grown goes far away, and the others stay in it.
    let founder = (0..6).map(subgrid).find(|it| RegionId::around(*it) == before[it]).unwrap();
    let region = before[&founder];
    sites.insert(founder, site(900.0, 0.0));
    (0..2 * LOOKS).for_each(|_| drop(grouping.handle_look(&sites)));
    assert_ne!(grouping.regions()[&founder], region);
    let stay = before.iter().filter(|(it, of)| **of == region && **it != founder);
    assert!(stay.clone().count() > 0);
    for (other, _) in stay.filter(|(it, _)| **it != subgrid(1)) {
        assert_eq!(grouping.regions()[other], region);
    }
}

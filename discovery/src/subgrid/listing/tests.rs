//! What is listed, and what it costs.

use std::time::Instant;

use phantom_model::SubgridId;

use super::*;
use crate::machine::query::{Query, QueryId, Scope, Wanted};
use crate::machine::registry::description::{Attributes, Description, Version};

const NOW: Duration = Duration::from_secs(50);

struct Registry(BTreeMap<NodeId, (Description, Digest)>, u64);

impl Registry {
    /// Members 1 to `count`.
    fn of(count: u32) -> Self {
        let mut registry = Self(BTreeMap::new(), 0);
        (1..=count).for_each(|number| registry.say(number, 4));
        registry
    }

    fn say(&mut self, number: u32, idle: u32) {
        self.1 += 1;
        let texts = [
            ("Name", format!("\"n{number}\"")),
            ("Arch", "\"x86_64\"".to_owned()),
            ("OpSys", "\"LINUX\"".to_owned()),
            ("Kernel", "\"6.12.48+deb13-amd64\"".to_owned()),
            ("Cpus", "8".to_owned()),
            ("Idle", format!("{idle}.25")),
            ("LoadAvg", "1.5".to_owned()),
            ("Memory", "16384".to_owned()),
            ("FreeMemory", (1000 + number).to_string()),
            ("Mflops", "2500".to_owned()),
            ("KFlops", "2500000".to_owned()),
            ("Lacks", "{ \"restore apps\", \"lazy pages\" }".to_owned()),
            ("State", "\"whatever it says\"".to_owned()),
        ];
        let texts = texts.map(|(name, text)| (name.to_owned(), text)).into();
        let version = Version { boot: 1, seq: self.1 };
        let attributes = Attributes::new(texts).unwrap();
        let description = Description { version, attributes };
        let digest = description.digest();
        self.0.insert(node(number), (description, digest));
    }

    fn listing(&self, listings: &mut Listings, now: Duration) -> Arc<Listing> {
        let entries = self.0.iter().map(|(member, (description, digest))| Registration {
            member: *member,
            description,
            age: Duration::ZERO,
            confirmed: true,
            digest: *digest,
        });
        listings.listing(self.1, entries, now)
    }
}

fn node(number: u32) -> NodeId {
    let mut id = [0; 32];
    id[..4].copy_from_slice(&number.to_be_bytes());
    NodeId(id)
}

fn up(numbers: impl IntoIterator<Item = u32>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(node).collect()
}

fn listed(listing: &Listing, vo: Option<&str>) -> BTreeSet<NodeId> {
    listing.ads(vo).map(|(node, _)| node).collect()
}

#[test]
fn only_what_has_changed_is_read_again() {
    let mut registry = Registry::of(5);
    let mut listings = Listings::default();
    listings.handle_up(up(1..=5));
    let first = registry.listing(&mut listings, NOW);
    let ad = |listing: &Listing, number: u32| {
        listing.members.iter().find(|(id, _)| *id == node(number)).unwrap().1.clone()
    };
    assert!(Arc::ptr_eq(&first, &registry.listing(&mut listings, NOW)), "nothing has changed");
    assert_eq!(ad(&first, 2).value("State"), Value::from("up"), "whatever it says");
    registry.say(3, 7);
    let second = registry.listing(&mut listings, NOW);
    assert_eq!(ad(&second, 3).value("Idle"), Value::Real(7.25));
    for number in 1..=5 {
        let same = Arc::ptr_eq(&ad(&first, number), &ad(&second, number));
        assert_eq!(same, number != 3, "{number}");
    }
    registry.0.remove(&node(3));
    registry.1 += 1;
    let third = registry.listing(&mut listings, NOW);
    assert_eq!(listed(&third, None), up([1, 2, 4, 5]));
    // What another registry has under the same revision is something else.
    listings.handle_registry(NOW);
    assert!(!Arc::ptr_eq(&third, &registry.listing(&mut listings, NOW)));
}

#[test]
fn who_is_away_is_not_listed_and_of_an_unknown_organisation_nobody() {
    let registry = Registry::of(5);
    let mut listings = Listings::default();
    listings.handle_up(up([1, 2, 4]));
    assert_eq!(listed(&registry.listing(&mut listings, NOW), None), up([1, 2, 4]));
    listings.handle_up(up([2, 4, 5]));
    listings.handle_vos([("physics".to_owned(), up([1, 2, 9]))].into());
    let listing = registry.listing(&mut listings, NOW);
    assert_eq!(listed(&listing, None), up([2, 4, 5]));
    assert_eq!(listed(&listing, Some("physics")), up([2]));
    assert!(listed(&listing, Some("Physics")).is_empty());
    assert_eq!(listing.summary().power().nodes, 3);
    listings.handle_vos(Vos::new());
    assert!(listed(&registry.listing(&mut listings, NOW), Some("physics")).is_empty());
}

#[test]
fn a_new_super_peer_waits_for_those_that_are_up_but_not_for_ever() {
    let mut registry = Registry::of(2);
    let mut listings = Listings::default();
    listings.handle_up(up(1..=3));
    listings.handle_registry(NOW);
    assert!(!registry.listing(&mut listings, NOW).is_whole());
    let late = NOW + SETTLES;
    assert!(!registry.listing(&mut listings, late - Duration::from_millis(1)).is_whole());
    assert!(registry.listing(&mut listings, late).is_whole(), "3 does not tell what it is");
    listings.handle_registry(late);
    assert!(!registry.listing(&mut listings, late).is_whole());
    registry.say(3, 1);
    assert!(registry.listing(&mut listings, late).is_whole());
}

/// Shown by `--nocapture`: what one query costs a super-peer of 1,000 members.
#[test]
fn a_query_over_a_thousand_members_reads_none_of_them_anew() {
    let mut registry = Registry::of(1000);
    let mut listings = Listings::default();
    listings.handle_up(up(1..=1000));
    let took = |what: &str, times: u32, work: &mut dyn FnMut()| {
        let began = Instant::now();
        (0..times).for_each(|_| work());
        let each = began.elapsed() / times;
        println!("1000 members: {what}: {each:?}");
        each
    };
    let anew = took("a listing made anew", 2, &mut || {
        listings.handle_registry(NOW);
        registry.listing(&mut listings, NOW);
    });
    let mut idle = 0;
    took("a listing after one has changed", 20, &mut || {
        idle += 1;
        registry.say(500, idle % 8);
        registry.listing(&mut listings, NOW);
    });
    let again = took("a listing when nothing has changed", 1000, &mut || {
        registry.listing(&mut listings, NOW);
    });
    assert!(again * 100 < anew, "{again:?} against {anew:?}");
    let listing = registry.listing(&mut listings, NOW);
    for (what, requirements, rank) in [
        ("a query that all match", "Idle >= 2 && Arch == \"x86_64\"", Some("FreeMemory")),
        ("a query that the first match", "Idle >= 2", None),
        ("a query that none matches", "Cpus >= 64 && member(\"gpu\", Has)", None),
        ("a query as long as one may be", &("Idle + ".repeat(70) + "1 > 1000"), None),
        ("a query that asks for much work", &worst(), Some("1")),
    ] {
        let query = Query {
            id: QueryId([0; 16]),
            origin: node(1),
            requirements: requirements.to_owned(),
            rank: rank.map(str::to_owned),
            wanted: 12,
            scope: Scope::SubGrid,
            vo: None,
            remaining_ms: 1000,
            attempt: 1,
            route: Vec::new(),
        };
        let mut found = 0;
        took(what, 2, &mut || {
            let wanted = Wanted::of(&query).unwrap();
            found = wanted.find(None, &*listing, SubgridId([1; 32])).len();
        });
        assert!(found <= 12);
    }
    took("what they have together", 1, &mut || assert_eq!(listing.summary().power().nodes, 1000));
}

/// An expression whose evaluation evaluates texts again and again.
fn worst() -> String {
    let inner = "1+".repeat(100) + "1";
    format!("eval(\"{inner}\") + eval(\"{inner}\") > 0")
}

//! Whether what was signed is believed, and nothing else.

use phantom_model::SubgridId;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::key::{NodeKey, SubgridKey};
use crate::member::{Authority, CLOCK_SKEW_S, Delegation};

const NOW: u64 = 1_800_000_000;
const NAME: &str = "campus.example.org";

fn body(key: &RegionKey, version: u64) -> CharterBody {
    let site =
        |number: u8| CharterSite { subgrid: SubgridId([number; 32]), name: site_name(number) };
    CharterBody {
        region: NAME.to_owned(),
        key: key.id(),
        version,
        at: NOW,
        sites: vec![site(3), site(1), site(2)],
        peers: vec![CharterPeer { region: "lab.example.org".to_owned(), key: [9; 32] }],
        rotated: vec![],
    }
}

fn site_name(number: u8) -> String {
    format!("site-{number}")
}

fn link(old: &RegionKey, new: &RegionKey) -> ([u8; 32], Vec<u8>) {
    (old.id(), Rotation::sign(old, new.id()).to_bytes())
}

/// A chain of keys, each followed by the next, and a charter by each of them.
fn chain(length: usize) -> (Vec<RegionKey>, Vec<Charter>) {
    let keys: Vec<_> = (0..length).map(|_| RegionKey::ephemeral()).collect();
    let charters = (0..length).map(|at| {
        let first = at.saturating_sub(MAX_ROTATED);
        let rotated = (first..at).map(|at| link(&keys[at], &keys[at + 1])).collect();
        Charter::sign(&keys[at], CharterBody { rotated, ..body(&keys[at], 1) }).unwrap()
    });
    let charters = charters.collect();
    (keys, charters)
}

#[test]
fn a_charter_comes_back_and_names_its_sites() {
    let key = RegionKey::ephemeral();
    let charter = Charter::sign(&key, body(&key, 7)).unwrap();
    let read = Charter::read(&charter.to_bytes(), NOW).unwrap();
    assert_eq!(read, charter);
    assert_eq!(read.site(SubgridId([2; 32])).unwrap().name, "site-2");
    assert!(read.site(SubgridId([4; 32])).is_none());
    assert!(read.is_under(&key.id()) && !read.is_under(&[9; 32]));
    let longer = [charter.to_bytes(), vec![0]].concat();
    assert_eq!(Charter::read(&longer, NOW), Err(CharterError::Malformed));
    let early = Charter::read(&charter.to_bytes(), NOW - CLOCK_SKEW_S - 1);
    assert!(matches!(early, Err(CharterError::Future { .. })), "{early:?}");
    assert!(Charter::read(&charter.to_bytes(), NOW - CLOCK_SKEW_S).is_ok());
}

#[test]
fn what_no_charter_may_say_is_not_signed() {
    let key = RegionKey::ephemeral();
    let refused = |change: &dyn Fn(&mut CharterBody)| {
        let mut body = body(&key, 1);
        change(&mut body);
        Charter::sign(&key, body).unwrap_err()
    };
    let site = |number: u32| {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        CharterSite { subgrid: SubgridId(id), name: format!("s{number}") }
    };
    let peer = |number: u32| CharterPeer { region: format!("r{number}.org"), key: [1; 32] };
    let wrong = refused(&|body| body.region = "Campus".to_owned());
    assert!(matches!(wrong, CharterError::Region(_)));
    let wrong = refused(&|body| body.region = "x".repeat(MAX_NAME + 1));
    assert!(matches!(wrong, CharterError::Region(_)));
    let wrong = refused(&|body| body.sites = (0..=MAX_SITES as u32).map(site).collect());
    assert!(matches!(wrong, CharterError::TooMany { what: "sites", .. }));
    let wrong = refused(&|body| body.peers = (0..=MAX_PEERS as u32).map(peer).collect());
    assert!(matches!(wrong, CharterError::TooMany { what: "other regions", .. }));
    let wrong = refused(&|body| body.sites[0].name = "a site".to_owned());
    assert!(matches!(wrong, CharterError::SiteName(_)));
    let wrong = refused(&|body| body.sites[0].name = body.sites[1].name.clone());
    assert!(matches!(wrong, CharterError::Twice { .. }));
    let wrong = refused(&|body| body.sites[0].subgrid = body.sites[1].subgrid);
    assert!(matches!(wrong, CharterError::Twice { .. }));
    let wrong = refused(&|body| body.peers.push(body.peers[0].clone()));
    assert!(matches!(wrong, CharterError::Twice { .. }));
    let wrong = refused(&|body| body.peers[0].region = NAME.to_owned());
    assert!(matches!(wrong, CharterError::AsksItself(_)));
    let wrong = refused(&|body| body.key = RegionKey::ephemeral().id());
    assert!(matches!(wrong, CharterError::OtherKey(_)));
    let wrong = refused(&|body| {
        let name = |site: CharterSite| CharterSite { name: format!("{:x<63}", site.name), ..site };
        body.sites = (0..MAX_SITES as u32).map(site).map(name).collect();
        let region = |number| format!("{}.{}{number:02}", "y".repeat(60), "z.".repeat(80));
        let peer = |number| CharterPeer { region: region(number), key: [1; 32] };
        body.peers = (0..MAX_PEERS as u32).map(peer).collect();
    });
    assert!(matches!(wrong, CharterError::TooLong { .. }), "{wrong}");
}

#[test]
fn a_chain_with_a_hole_a_loop_or_a_foreign_link_is_refused() {
    let [a, b, c, d, e] = [(); 5].map(|()| RegionKey::ephemeral());
    let signed = |rotated| Charter::sign(&c, CharterBody { rotated, ..body(&c, 1) });
    assert!(signed(vec![link(&a, &b), link(&b, &c)]).is_ok());
    let refused = [
        vec![link(&b, &c), link(&a, &b)],
        vec![link(&a, &c), link(&b, &c)],
        vec![link(&a, &b)],
        vec![link(&c, &c)],
        vec![link(&c, &b), link(&b, &c)],
        vec![(a.id(), Rotation::sign(&b, c.id()).to_bytes())],
        vec![(a.id(), vec![])],
        vec![(a.id(), [link(&a, &c).1, vec![0]].concat())],
    ];
    for rotated in refused {
        assert!(matches!(signed(rotated), Err(CharterError::Rotations(_))));
    }
    let long = vec![link(&d, &e), link(&e, &a), link(&a, &b), link(&b, &c)];
    assert!(matches!(signed(long), Err(CharterError::TooMany { what: "former keys", .. })));
}

#[test]
fn a_key_that_follows_counts_over_one_that_was_stolen() {
    let (keys, charters) = chain(2);
    let stolen = Charter::sign(&keys[0], body(&keys[0], u64::MAX)).unwrap();
    assert!(charters[1].replaces(&stolen) && !stolen.replaces(&charters[1]));
    assert!(charters[1].is_under(&keys[0].id()) && !stolen.is_under(&keys[1].id()));
    let foreign = RegionKey::ephemeral();
    let foreign = Charter::sign(&foreign, body(&foreign, u64::MAX)).unwrap();
    assert!(!foreign.replaces(&charters[0]) && !charters[0].replaces(&foreign));
    let other = CharterBody { region: "lab.example.net".to_owned(), ..body(&keys[0], 9) };
    let other = Charter::sign(&keys[0], other).unwrap();
    assert!(!other.replaces(&charters[0]) && !charters[0].replaces(&other));
}

#[test]
fn of_two_keys_that_each_follow_the_other_the_version_decides() {
    let [a, b] = [(); 2].map(|()| RegionKey::ephemeral());
    let by = |key: &RegionKey, before: &RegionKey, version| {
        let rotated = vec![link(before, key)];
        Charter::sign(key, CharterBody { rotated, ..body(key, version) }).unwrap()
    };
    let (first, second) = (by(&a, &b, 4), by(&b, &a, 5));
    assert!(second.replaces(&first) && !first.replaces(&second));
}

#[test]
fn signatures_of_one_kind_are_none_of_another() {
    let [old, new] = [(); 2].map(|()| RegionKey::ephemeral());
    let bare = old.secret().sign(&[old.id(), new.id()].concat()).to_bytes();
    assert!(!Rotation::is_genuine(&old.id(), &new.id(), &bare));
    let proof = Rotation::sign(&old, new.id()).to_bytes();
    assert_eq!(proof.len(), Rotation::BYTES);
    assert!(Rotation::is_genuine(&old.id(), &new.id(), &proof));
    assert!(!Rotation::is_genuine(&new.id(), &old.id(), &proof));
    assert!(!Rotation::is_genuine(&old.id(), &old.id(), &proof));
    // The neutral point, for which anybody can sign.
    let mut neutral = [0; 32];
    neutral[0] = 1;
    let forged = [neutral.as_slice(), &[0; 32]].concat();
    assert!(!Rotation::is_genuine(&neutral, &new.id(), &forged));
}

/// One that the sub-grid's key has sealed, and one by a delegate.
fn registrations() -> [Registration; 2] {
    let (key, delegate) = (SubgridKey::ephemeral(), NodeKey::ephemeral());
    let delegation = Delegation::issue(&key, delegate.id(), 1);
    let by = [Authority::from(&key), Authority::Delegate(delegate, delegation)];
    by.map(|by| Registration::sign(by, NAME, [8; 32], "physics", NOW, false).unwrap())
}

#[test]
fn a_registration_is_the_sub_grids_or_a_delegates() {
    for one in registrations() {
        let read = Registration::read(&one.to_bytes(), NOW).unwrap();
        assert_eq!(read, one);
        assert_eq!((read.region(), read.name(), read.at()), (NAME, "physics", NOW));
        assert!(!read.leaves() && read.key() == &[8; 32]);
        let early = Registration::read(&one.to_bytes(), NOW - CLOCK_SKEW_S - 1);
        assert!(matches!(early, Err(RegistrationError::Future { .. })), "{early:?}");
    }
    let (key, stranger) = (SubgridKey::ephemeral(), SubgridKey::ephemeral());
    let node = NodeKey::ephemeral();
    // A delegate of another sub-grid, and one that has made itself one.
    let foreign = Delegation::issue(&stranger, node.id(), 1);
    let by = Authority::Delegate(node, foreign);
    let one = Registration::sign(by, NAME, [8; 32], "physics", NOW, true).unwrap();
    assert_eq!(one.subgrid(), stranger.id());
    let at = 0;
    let mut bytes = one.to_bytes();
    bytes[at..at + 32].copy_from_slice(&key.id().0);
    assert!(matches!(Registration::read(&bytes, NOW), Err(RegistrationError::Forged { .. })));
    for (region, name) in [("Campus", "x"), (NAME, "a b"), (NAME, ""), ("", "x")] {
        assert!(Registration::sign(&key, region, [8; 32], name, NOW, false).is_err());
    }
}

/// Bytes with one of them changed, cut or added.
fn changed(bytes: &[u8], at: usize, by: u8, how: u8) -> Vec<u8> {
    let (mut bytes, at) = (bytes.to_vec(), at % bytes.len());
    match how {
        0 => bytes[at] ^= by,
        1 => drop(bytes.remove(at)),
        2 => bytes.insert(at, by),
        _ => bytes.truncate(at),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_change_of_a_charter_is_refused(
        at in any::<usize>(), by in 1u8.., how in 0u8..4, rotations in 0usize..4,
    ) {
        let bytes = chain(rotations + 1).1.last().unwrap().to_bytes();
        let changed = changed(&bytes, at, by, how);
        prop_assume!(changed != bytes);
        prop_assert!(Charter::read(&changed, NOW).is_err());
        // Nor does it come in as a part of something else.
        if let Ok((_, rest)) = postcard::take_from_bytes::<Charter>(&changed) {
            prop_assert!(!rest.is_empty());
        }
    }

    #[test]
    fn any_change_of_a_registration_is_refused(
        at in any::<usize>(), by in 1u8.., how in 0u8..4, which in 0usize..2,
    ) {
        let bytes = registrations()[which].to_bytes();
        let changed = changed(&bytes, at, by, how);
        prop_assume!(changed != bytes);
        prop_assert!(Registration::read(&changed, NOW).is_err());
    }

    #[test]
    fn any_change_of_a_rotation_is_refused(at in any::<usize>(), by in 1u8.., how in 0u8..4) {
        let [old, new] = [(); 2].map(|()| RegionKey::ephemeral());
        let bytes = Rotation::sign(&old, new.id()).to_bytes();
        let changed = changed(&bytes, at, by, how);
        prop_assume!(changed != bytes);
        prop_assert!(!Rotation::is_genuine(&old.id(), &new.id(), &changed));
    }

    #[test]
    fn any_bytes_are_answered(bytes in vec(any::<u8>(), 0..700), old: [u8; 32], new: [u8; 32]) {
        prop_assert!(Charter::read(&bytes, NOW).is_err());
        prop_assert!(Registration::read(&bytes, NOW).is_err());
        prop_assert!(!Rotation::is_genuine(&old, &new, &bytes[..bytes.len().min(64)]));
    }

    #[test]
    fn charters_come_back(
        sites in vec((any::<[u8; 32]>(), "[a-z0-9]{4,20}"), 0..40),
        peers in vec(("[a-z]{4,20}\\.org", any::<[u8; 32]>()), 0..10),
        version: u64, at in 0..=NOW, rotations in 0usize..4,
    ) {
        let (keys, charters) = chain(rotations + 1);
        let key = keys.last().unwrap();
        let sites = sites.into_iter().map(|(id, name)| CharterSite { subgrid: SubgridId(id), name });
        let peers = peers.into_iter().map(|(region, key)| CharterPeer { region, key });
        let rotated = charters.last().unwrap().body().rotated.clone();
        let (sites, peers) = (sites.collect(), peers.collect());
        let body = CharterBody { sites, peers, rotated, version, at, ..body(key, 1) };
        match Charter::sign(key, body) {
            Ok(charter) => {
                prop_assert_eq!(&Charter::read(&charter.to_bytes(), NOW).unwrap(), &charter);
                let wrapped = postcard::to_stdvec(&(1u8, &charter)).unwrap();
                prop_assert_eq!(&postcard::from_bytes::<(u8, Charter)>(&wrapped).unwrap().1, &charter);
                for site in &charter.body().sites {
                    prop_assert_eq!(charter.site(site.subgrid), Some(site));
                }
            }
            Err(error) => prop_assert!(matches!(error, CharterError::Twice { .. }), "{}", error),
        }
    }

    /// Whatever the order in which charters are heard, nodes that have pinned the first key come to
    /// the same one, and back to none before it.
    #[test]
    fn all_come_to_the_same_charter(
        said in vec((0usize..4, 1u64..4, 0u64..2), 1..8), seed: u64,
    ) {
        let (keys, charters) = chain(4);
        let mut said: Vec<_> = said.iter().map(|(by, version, later)| {
            let rotated = charters[*by].body().rotated.clone();
            let body = CharterBody { rotated, at: NOW + later, ..body(&keys[*by], *version) };
            Charter::sign(&keys[*by], body).unwrap()
        }).collect();
        let settle = |said: &[Charter]| {
            said.iter().skip(1).fold(said[0].clone(), |known, heard| {
                if heard.replaces(&known) { heard.clone() } else { known }
            })
        };
        let first = settle(&said);
        let mut state = seed;
        for at in (1..said.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            said.swap(at, (state >> 33) as usize % (at + 1));
        }
        let second = settle(&said);
        prop_assert_eq!(first.body(), second.body());
        prop_assert!(said.iter().all(|other| !other.replaces(&first)));
    }
}

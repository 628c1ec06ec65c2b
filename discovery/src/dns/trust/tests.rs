use super::*;
use crate::dns::entry::Host;
use crate::dns::found::Form;
use phantom_model::NodeId;
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Statements of one byte for each key: what the old and the new one have in common is known here.
struct Signed;

const PROOF: u8 = 0xaa;

impl Verify for Signed {
    fn rotated(&self, old: &[u8; 32], new: &[u8; 32], proof: &[u8]) -> bool {
        proof == proof_of(old[0], new[0])
    }
}

fn proof_of(old: u8, new: u8) -> Vec<u8> {
    vec![PROOF, old, new]
}

fn region(number: usize) -> GridUri {
    GridUri::from_name(&format!("r{number}.example.org")).unwrap()
}

fn mandate(generation: u64, term: u64) -> Mandate {
    Mandate { generation, term }
}

fn entry(key: u8, at: Mandate, proofs: Vec<Vec<u8>>) -> Entry {
    let hosts = vec![Host::Ip([192, 0, 2, key].into())];
    Entry::new(hosts, 7777, [key; 32], NodeId([key; 32]), at, proofs).unwrap()
}

fn published(entry: Entry) -> Published {
    Published { priority: 10, weight: 1, entry }
}

fn found(entries: Vec<Entry>) -> Result<Found, FindError> {
    let published = entries.into_iter().map(published).collect();
    Ok(Found { published, form: Form::Uri })
}

fn down() -> Result<Found, FindError> {
    let after = Duration::from_secs(3);
    Err(FindError::TimedOut { name: "n".to_owned(), servers: "s".to_owned(), after })
}

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A cache that knows region 0 by key 1 and mandate 2.5, since second 100.
fn known() -> RegionCache {
    let mut cache = RegionCache::default();
    let at = mandate(2, 5);
    cache.confirm(&region(0), &entry(1, at, vec![]), at, &Signed, secs(100)).unwrap();
    cache
}

fn settle(cache: &RegionCache, entries: Vec<Entry>) -> Result<Current, RegionError> {
    cache.settle(&region(0), found(entries), &Signed, secs(160))
}

#[test]
fn a_later_or_equal_mandate_of_the_pinned_key_is_taken_and_an_older_one_is_not() {
    let cache = known();
    for at in [mandate(2, 5), mandate(2, 6), mandate(3, 0)] {
        let current = settle(&cache, vec![entry(1, at, vec![])]).unwrap();
        assert_eq!(current.source, Source::Fresh(How::Same));
    }
    for at in [mandate(2, 4), mandate(1, 9)] {
        let error = settle(&cache, vec![entry(1, at, vec![])]).unwrap_err();
        let RegionError::Refused(Refusal::Older { offered, .. }) = &error else {
            panic!("{error}");
        };
        assert_eq!(*offered, at);
        assert!(error.to_string().contains("known is 2.5"), "{error}");
    }
}

#[test]
fn another_key_is_refused_and_named_unless_the_pinned_one_has_signed() {
    let mut cache = known();
    let at = mandate(9, 9);
    let error = settle(&cache, vec![entry(2, at, vec![])]).unwrap_err().to_string();
    assert!(error.contains(&"02".repeat(32)) && error.contains(&"01".repeat(32)), "{error}");
    for wrong in [proof_of(2, 1), proof_of(1, 3), proof_of(3, 2)] {
        assert!(settle(&cache, vec![entry(2, at, vec![wrong])]).is_err());
    }
    // One of several statements is by the pinned key.
    let rotated = entry(2, at, vec![proof_of(9, 2), proof_of(1, 2)]);
    let current = settle(&cache, vec![rotated.clone()]).unwrap();
    assert_eq!(current.source, Source::Fresh(How::Rotated { from: [1; 32] }));
    assert_eq!(cache, known(), "looking changes nothing");
    cache.confirm(&region(0), &rotated, at, &Signed, secs(170)).unwrap();
    assert_eq!(cache.get(&region(0)).unwrap().key(), [2; 32]);
    assert!(settle(&cache, vec![entry(1, mandate(10, 0), vec![])]).is_err(), "the old key is over");
}

#[test]
fn a_forged_record_beside_the_true_one_does_not_matter() {
    let cache = known();
    let mut forged = published(entry(2, mandate(u64::MAX, 0), vec![]));
    forged.priority = 0;
    let answer = Found {
        published: vec![forged, published(entry(1, mandate(2, 6), vec![]))],
        form: Form::Uri,
    };
    let current = cache.settle(&region(0), Ok(answer), &Signed, secs(1)).unwrap();
    assert_eq!(current.entry.key(), [1; 32]);
    // Nobody can say which of two is right to somebody who knows neither.
    let (one, two) = (entry(1, mandate(1, 1), vec![]), entry(2, mandate(1, 1), vec![]));
    let error = RegionCache::default().settle(&region(0), found(vec![one, two]), &Signed, secs(1));
    assert!(matches!(error, Err(RegionError::Refused(Refusal::SeveralKeys { .. }))));
}

#[test]
fn a_forged_mandate_of_the_right_key_is_not_kept() {
    let mut cache = known();
    let forged = entry(1, mandate(u64::MAX, u64::MAX), vec![]);
    assert!(settle(&cache, vec![forged.clone()]).is_ok(), "it may be tried");
    let error = cache.confirm(&region(0), &forged, mandate(2, 6), &Signed, secs(170)).unwrap_err();
    assert!(matches!(error, CacheError::Mandate { .. }), "{error}");
    assert_eq!(cache, known());
    // A node that was elected again, whose entry is not yet written anew.
    let at = mandate(2, 5);
    cache.confirm(&region(0), &entry(1, at, vec![]), mandate(2, 7), &Signed, secs(180)).unwrap();
    // A deposed node.
    let error = cache.confirm(
        &region(0),
        &entry(1, mandate(2, 4), vec![]),
        mandate(2, 4),
        &Signed,
        secs(1),
    );
    assert!(matches!(error, Err(CacheError::Older { .. })));
}

#[test]
fn without_the_dns_the_last_good_entry_is_used_with_its_age() {
    let cache = known();
    let current = cache.settle(&region(0), down(), &Signed, secs(160)).unwrap();
    let Source::Cached { age, why } = current.source else { panic!("{current:?}") };
    assert_eq!((age, why), (secs(60), down().unwrap_err()));
    // A clock that was set back makes no age.
    let current = cache.settle(&region(0), down(), &Signed, secs(10)).unwrap();
    assert!(matches!(current.source, Source::Cached { age: Duration::ZERO, .. }));
    // Only a key is known.
    let mut pinned = RegionCache::default();
    pinned.pin(&region(0), [1; 32]).unwrap();
    assert!(pinned.settle(&region(0), down(), &Signed, secs(1)).is_err());
    // The DNS says that there is nothing.
    for error in [FindError::NoSuchName { uri: region(0) }, FindError::NoEntry { uri: region(0) }] {
        let got = cache.settle(&region(0), Err(error.clone()), &Signed, secs(160));
        assert_eq!(got, Err(RegionError::Find(error)));
    }
}

#[test]
fn the_cache_is_bounded_and_pins_are_not_replaced() {
    let mut cache = RegionCache::default();
    for number in 0..MAX_REGIONS {
        cache.pin(&region(number), [1; 32]).unwrap();
    }
    let more = region(MAX_REGIONS);
    assert!(matches!(cache.pin(&more, [1; 32]), Err(CacheError::Full { .. })));
    let at = mandate(1, 1);
    let late = cache.confirm(&more, &entry(1, at, vec![]), at, &Signed, secs(1));
    assert!(matches!(late, Err(CacheError::Full { .. })));
    assert!(matches!(cache.pin(&region(3), [2; 32]), Err(CacheError::OtherKey { .. })));
    let other = cache.confirm(&region(3), &entry(2, at, vec![]), at, &Signed, secs(1));
    assert!(matches!(other, Err(CacheError::OtherKey { .. })));
    assert!(cache.forget(&region(3)) && !cache.forget(&region(3)));
    cache.pin(&region(3), [2; 32]).unwrap();
    let text = serde_json::to_string(&cache).unwrap();
    assert_eq!(serde_json::from_str::<RegionCache>(&text).unwrap(), cache);
}

#[test]
fn a_stored_cache_is_checked() {
    let text = serde_json::to_string(&known()).unwrap();
    assert_eq!(serde_json::from_str::<RegionCache>(&text).unwrap(), known());
    let one = text.trim_matches(['[', ']']);
    for wrong in [
        format!("[{one},{one}]"),
        text.replacen("01", "02", 1),
        text.replace("found_ms", "x"),
        text.replace("100000", "null"),
        text.replace("phantom://", "http://"),
        text.replace("grid://", "grid:/"),
        text.replacen("01", "+1", 1),
    ] {
        assert_ne!(wrong, text);
        assert!(serde_json::from_str::<RegionCache>(&wrong).is_err(), "{wrong}");
    }
}

/// A region's life: its peers change, its key is rotated now and then, some of its answers are late,
/// somebody forges others, the DNS is down at times, the node restarts and sometimes loses its disk.
fn live(seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let uri = region(0);
    let mut cache = RegionCache::default();
    cache.pin(&uri, [1; 32]).unwrap();
    let (mut key, mut at) = (1u8, mandate(1, 1));
    let mut history = vec![entry(key, at, vec![])];
    let mut confirmed: Option<(Mandate, Duration)> = None;
    let mut now = secs(1_000);
    for _ in 0..300 {
        now += secs(rng.random_range(0..100));
        match rng.random_range(0..10) {
            0 if key < 50 => {
                // Statements of the last three keys.
                let old = key.saturating_sub(2).max(1)..=key;
                key += 1;
                at = mandate(at.generation + 1, 1);
                let proofs = old.map(|old| proof_of(old, key)).collect();
                history.push(entry(key, at, proofs));
            }
            1..=3 => {
                at.term += rng.random_range(1..3);
                let proofs = history.last().unwrap().rotated().to_vec();
                history.push(entry(key, at, proofs));
            }
            4 => {
                let text = serde_json::to_string(&cache).unwrap();
                cache = serde_json::from_str(&text).unwrap();
            }
            5 if rng.random_bool(0.1) => {
                // An empty disk: the invitation is read again.
                cache = RegionCache::default();
                cache.pin(&uri, [key; 32]).unwrap();
                confirmed = None;
            }
            _ => {}
        }
        let (pinned, before) = (cache.get(&uri).unwrap().key(), cache.clone());
        let answer = match rng.random_range(0..5) {
            0 => down(),
            1 => {
                let forged = mandate(rng.random_range(0..100), rng.random_range(0..100));
                let stolen = history[rng.random_range(0..history.len())].rotated().to_vec();
                found(vec![entry(rng.random_range(60..90), forged, stolen)])
            }
            2 => found(vec![history[rng.random_range(0..history.len())].clone()]),
            _ => found(vec![history.last().unwrap().clone()]),
        };
        let was_down = answer.is_err();
        let settled = cache.settle(&uri, answer, &Signed, now);
        assert_eq!(cache, before, "settling keeps nothing");
        match settled {
            Ok(Current { entry, source }) => {
                assert!(history.contains(&entry), "forged entries are never tried");
                if let Some((known, _)) = confirmed {
                    assert!(entry.at() >= known, "never back to an older entry");
                }
                match source {
                    Source::Cached { age, .. } => {
                        assert!(was_down);
                        assert_eq!(age, now - confirmed.unwrap().1);
                    }
                    Source::Fresh(How::Same) => assert_eq!(entry.key(), pinned),
                    Source::Fresh(How::Rotated { from }) => {
                        assert!(from == pinned && entry.key() != pinned);
                    }
                    Source::Fresh(How::First) => panic!("a key is pinned"),
                }
                // The node that is reached lives in most cases, and then has its own mandate.
                if rng.random_bool(0.8) {
                    cache.confirm(&uri, &entry, entry.at(), &Signed, now).unwrap();
                    confirmed = Some((entry.at(), now));
                }
            }
            Err(RegionError::Find(_)) => assert!(was_down && confirmed.is_none()),
            Err(RegionError::Refused(_)) => assert!(!was_down),
        }
    }
}

#[test]
fn a_regions_life() {
    let given = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok());
    let first = given.unwrap_or(1);
    for seed in first..first + 100 {
        println!("PHANTOM_SEED={seed}");
        live(seed);
    }
}

proptest! {
    #[test]
    fn any_stored_text_is_answered(text in "\\PC{0,200}") {
        let _ = serde_json::from_str::<RegionCache>(&text);
    }

    /// Whatever is published, an entry is only taken by its key or with a statement, and not below
    /// the known mandate.
    #[test]
    fn what_is_taken_may_be_taken(
        entries in proptest::collection::vec(
            (1u8..4, 0u64..6, 0u64..6, 0u8..4, any::<(u16, u16)>()), 0..16,
        ),
    ) {
        let cache = known();
        let published: Vec<_> = entries
            .into_iter()
            .map(|(key, generation, term, old, (priority, weight))| {
                let proofs = if old == 0 { vec![] } else { vec![proof_of(old, key)] };
                let entry = entry(key, mandate(generation, term), proofs);
                Published { priority, weight, entry }
            })
            .collect();
        let fits = |entry: &Entry| {
            let signed = entry.rotated() == [proof_of(1, entry.key()[0])];
            (entry.key() == [1; 32] || signed) && entry.at() >= mandate(2, 5)
        };
        let judged = Trust { known: cache.get(&region(0)), verify: &Signed }
            .judge(&region(0), &published);
        match judged {
            Ok((taken, _)) => {
                prop_assert!(fits(&taken));
                let best = published.iter().map(|one| &one.entry).filter(|entry| fits(entry));
                prop_assert_eq!(best.map(Entry::at).max(), Some(taken.at()));
            }
            Err(_) => prop_assert!(!published.iter().any(|one| fits(&one.entry))),
        }
    }
}

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use phantom_discovery::dns::{Entry, Form, Host, Primary, TsigKey, UpdateError, Updater};
use phantom_model::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::between::{Answer, Unknown, middlebox, proxy};
use super::server::{Bind, Zone, keygen};
use super::{Ed25519, PATIENCE, Region, entry, finder, mandate, updater, uri};

fn with_key(bind: &Bind, key: &TsigKey) -> Updater {
    Updater::new(key, Primary::Given(bind.at), PATIENCE).unwrap()
}

async fn found(bind: &Bind, name: &str) -> Entry {
    let found = finder(bind.at).find(&uri(name)).await.unwrap();
    assert_eq!((found.form, found.published.len()), (Form::Uri, 1));
    found.published[0].entry.clone()
}

#[tokio::test]
async fn an_entry_is_created_and_replaced_in_both_forms() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let (updater, region, campus) = (updater(&bind), Region::new(1), uri("campus.test"));
    let seen = updater.read(&campus).await.unwrap();
    assert_eq!(seen.published(), vec![]);
    assert_eq!(
        (seen.zone(), seen.name()),
        ("campus.test.".into(), "_phantom._udp.campus.test.".into())
    );
    for (node, term) in [(7, 1), (8, 2), (8, 2)] {
        let next = entry(&region, node, mandate(1, term));
        let written = updater.publish(&campus, &next, &Ed25519).await.unwrap();
        assert_eq!(found(&bind, "campus.test").await, next);
        // URI, and SRV with TXT.
        let seen = updater.read(&campus).await.unwrap();
        assert_eq!(seen, written);
        assert_eq!(seen.published().len(), 2);
        assert!(seen.published().iter().all(|one| one.entry == next));
    }
}

#[tokio::test]
async fn the_zone_and_its_primary_are_found_by_soa() {
    let bind = Bind::start(&[Zone::dynamic("campus.test"), Zone::dynamic("deep.campus.test")]);
    let primary = Primary::Named { finder: finder(bind.at), port: bind.at.port() };
    let updater = Updater::new(&bind.key("campus"), primary, PATIENCE).unwrap();
    for (name, zone) in [
        ("campus.test", "campus.test."),
        ("lab.campus.test", "campus.test."),
        ("deep.campus.test", "deep.campus.test."),
    ] {
        let known = entry(&Region::new(1), 7, mandate(1, 1));
        let seen = updater.publish(&uri(name), &known, &Ed25519).await.unwrap();
        assert_eq!(seen.zone(), zone);
        assert_eq!(found(&bind, name).await, known);
    }
    let error = updater.read(&uri("elsewhere.test")).await.unwrap_err();
    assert!(matches!(error, UpdateError::NoZone { .. }), "{error}");
}

#[tokio::test]
async fn of_writers_that_have_seen_the_same_one_wins() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let campus = uri("campus.test");
    for round in 1..=5 {
        let seen = updater(&bind).read(&campus).await.unwrap();
        let mut writers = JoinSet::new();
        for node in 1..=8 {
            let (updater, seen) = (updater(&bind), seen.clone());
            let next = entry(&Region::new(1), node, mandate(round, node.into()));
            writers.spawn(async move { (updater.write(&seen, &next, &Ed25519).await, next) });
        }
        let (mut won, mut lost) = (Vec::new(), 0);
        while let Some(ended) = writers.join_next().await {
            match ended.unwrap() {
                (Ok(_), next) => won.push(next),
                (Err(UpdateError::Changed(now)), _) => {
                    assert_ne!(*now, seen);
                    lost += 1;
                }
                (Err(error), _) => panic!("{error}"),
            }
        }
        assert_eq!((won.len(), lost), (1, 7));
        assert_eq!(found(&bind, "campus.test").await, won[0]);
    }
}

#[tokio::test]
async fn of_writers_that_look_again_the_latest_mandate_stays() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let campus = uri("campus.test");
    for round in 1..=5 {
        let mut writers = JoinSet::new();
        for node in 1..=3 {
            let (updater, campus) = (updater(&bind), campus.clone());
            let next = entry(&Region::new(1), node, mandate(round, node.into()));
            writers.spawn(async move { (updater.publish(&campus, &next, &Ed25519).await, node) });
        }
        while let Some(ended) = writers.join_next().await {
            match ended.unwrap() {
                (Ok(_), _) => {}
                (Err(UpdateError::Deposed { by, .. }), node) => {
                    assert!(by > mandate(round, node.into()));
                }
                (Err(error), _) => panic!("{error}"),
            }
        }
        assert_eq!(found(&bind, "campus.test").await.at(), mandate(round, 3));
    }
}

#[tokio::test]
async fn a_deposed_peer_writes_nothing() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let (updater, campus, region) = (updater(&bind), uri("campus.test"), Region::new(1));
    let first = entry(&region, 1, mandate(1, 1));
    let stale = updater.publish(&campus, &first, &Ed25519).await.unwrap();
    let second = entry(&region, 2, mandate(1, 2));
    updater.publish(&campus, &second, &Ed25519).await.unwrap();
    // It has not seen its successor's: the server refuses.
    let error = updater.write(&stale, &first, &Ed25519).await.unwrap_err();
    let UpdateError::Changed(now) = error else { panic!("{error}") };
    // It has: it gives up by itself. So does another node of the same mandate.
    for late in [first, entry(&region, 3, mandate(1, 2)), entry(&region, 3, mandate(0, 9))] {
        for error in [
            updater.write(&now, &late, &Ed25519).await.unwrap_err(),
            updater.publish(&campus, &late, &Ed25519).await.unwrap_err(),
        ] {
            let UpdateError::Deposed { by, node, .. } = &error else { panic!("{error}") };
            assert_eq!((*by, *node), (mandate(1, 2), NodeId([2; 32])));
        }
    }
    assert_eq!(found(&bind, "campus.test").await, second);
}

#[tokio::test]
async fn another_regions_entry_stays_unless_its_key_has_signed() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let (updater, campus) = (updater(&bind), uri("campus.test"));
    let (old, new) = (Region::new(1), Region::new(2));
    updater.publish(&campus, &entry(&old, 1, mandate(1, 1)), &Ed25519).await.unwrap();
    let other = entry(&new, 2, mandate(9, 9));
    let error = updater.publish(&campus, &other, &Ed25519).await.unwrap_err();
    assert!(matches!(error, UpdateError::OtherRegion { .. }), "{error}");
    let hosts = vec![Host::Ip([192, 0, 2, 2].into())];
    let proofs = vec![old.rotation(new.key())];
    let rotated = Entry::new(hosts, 1, new.key(), NodeId([2; 32]), mandate(2, 1), proofs).unwrap();
    updater.publish(&campus, &rotated, &Ed25519).await.unwrap();
    assert_eq!(found(&bind, "campus.test").await, rotated);
}

#[tokio::test]
async fn keys_and_clocks_that_are_wrong_are_named() {
    let zones = [Zone::dynamic("campus.test"), Zone::fixed("fixed.test", "")];
    let bind = Bind::start(&zones);
    let known = entry(&Region::new(1), 1, mandate(1, 1));
    let publish = async |updater: &Updater, name: &str| {
        updater.publish(&uri(name), &known, &Ed25519).await.unwrap_err()
    };
    let parse = |text: &str| TsigKey::parse(text, "test").unwrap();

    // A key the server has never heard of.
    let error = publish(&with_key(&bind, &parse(&keygen("stranger"))), "campus.test").await;
    assert!(matches!(error, UpdateError::BadKey { .. }), "{error}");
    assert!(error.to_string().contains("does not know the key stranger"), "{error}");
    // The right name with another secret.
    let error = publish(&with_key(&bind, &parse(&keygen("campus"))), "campus.test").await;
    assert!(matches!(error, UpdateError::BadSignature { .. }), "{error}");
    // A key that is known and may not change this zone.
    let error = publish(&with_key(&bind, &bind.key("other")), "campus.test").await;
    assert!(matches!(error, UpdateError::Refused { .. }), "{error}");
    assert!(error.to_string().contains("allow-update"), "{error}");
    // A zone that takes no updates, and one that is not there.
    let error = publish(&updater(&bind), "fixed.test").await;
    assert!(matches!(error, UpdateError::Refused { .. }), "{error}");
    let error = publish(&updater(&bind), "elsewhere.test").await;
    assert!(matches!(error, UpdateError::NotAuthoritative { .. }), "{error}");
    // Clocks an hour apart.
    for hour in [3600, -3600] {
        let clock = move || {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            Duration::from_secs(now.as_secs().checked_add_signed(hour).unwrap())
        };
        let error = publish(&updater(&bind).with_clock(clock), "campus.test").await;
        let UpdateError::BadTime { seconds, .. } = &error else { panic!("{error}") };
        assert!((seconds + i128::from(hour)).abs() < 60, "{error}");
    }
    assert!(updater(&bind).read(&uri("campus.test")).await.unwrap().published().is_empty());
}

/// As docs/regions-dns.md sets a server up.
#[tokio::test]
async fn a_key_that_may_change_one_name_only() {
    let updaters = "update-policy { grant campus name _phantom._udp.campus.test. URI SRV TXT; };";
    let bind = Bind::start(&[Zone { updaters, ..Zone::dynamic("campus.test") }]);
    let updater = updater(&bind);
    for term in 1..=2 {
        let next = entry(&Region::new(1), 1, mandate(1, term));
        updater.publish(&uri("campus.test"), &next, &Ed25519).await.unwrap();
        assert_eq!(found(&bind, "campus.test").await, next);
        let error = updater.publish(&uri("lab.campus.test"), &next, &Ed25519).await.unwrap_err();
        assert!(matches!(error, UpdateError::Refused { .. }), "{error}");
    }
}

#[tokio::test]
async fn key_files_are_read_as_tsig_keygen_writes_them() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let key = Updater::read_key(&bind.key_file("campus")).await.unwrap();
    assert_eq!((key.name(), &key), ("campus", &bind.key("campus")));
    let missing = bind.key_file("nobody");
    let error = Updater::read_key(&missing).await.unwrap_err().to_string();
    assert!(error.contains(&missing.display().to_string()) && error.contains("tsig-keygen"));
    let broken = bind.key_file("broken");
    std::fs::write(&broken, "key x {\n algorithm md5; };").unwrap();
    let error = Updater::read_key(&broken).await.unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}:2: ", broken.display())), "{error}");
    std::fs::write(&broken, "# ".repeat(100_000)).unwrap();
    let error = Updater::read_key(&broken).await.unwrap_err();
    assert!(matches!(error, UpdateError::Key(_)), "{error}");
}

#[tokio::test]
async fn an_update_whose_answer_is_lost_is_made_once() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let between = proxy(bind.at, Answer::FirstLost).await;
    let key = bind.key("campus");
    let updater = Updater::new(&key, Primary::Given(between.at), PATIENCE).unwrap();
    let campus = uri("campus.test");
    let known = entry(&Region::new(1), 1, mandate(1, 1));
    let seen = updater.read(&campus).await.unwrap();
    let written = updater.write(&seen, &known, &Ed25519).await.unwrap();
    assert_eq!(between.updates.load(Ordering::SeqCst), 2);
    assert_eq!(written, updater.read(&campus).await.unwrap());
    assert_eq!(found(&bind, "campus.test").await, known);
}

#[tokio::test]
async fn a_changed_answer_is_not_believed() {
    let bind = Bind::start(&[Zone::fixed("campus.test", "")]);
    let between = proxy(bind.at, Answer::Glossed).await;
    let key = bind.key("campus");
    let updater = Updater::new(&key, Primary::Given(between.at), PATIENCE).unwrap();
    let known = entry(&Region::new(1), 1, mandate(1, 1));
    let error = updater.publish(&uri("campus.test"), &known, &Ed25519).await.unwrap_err();
    assert!(matches!(error, UpdateError::NotTrusted { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_is_silent_or_down_is_named_in_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = silent.local_addr().unwrap();
    let key = TsigKey::parse(&keygen("campus"), "test").unwrap();
    let deadline = Duration::from_millis(600);
    let updater = Updater::new(&key, Primary::Given(at), deadline).unwrap();
    let begun = Instant::now();
    let error = updater.read(&uri("campus.test")).await.unwrap_err();
    assert!(matches!(error, UpdateError::TimedOut { .. }), "{error}");
    assert!(begun.elapsed() < deadline + Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(silent);
    let error = updater.read(&uri("campus.test")).await.unwrap_err();
    assert!(matches!(error, UpdateError::Unreachable { .. }), "{error}");
    assert!(error.to_string().contains(&at.to_string()), "{error}");
}

#[tokio::test]
async fn a_server_that_was_killed_and_one_that_has_lost_its_disk() {
    let zones = [Zone::dynamic("campus.test")];
    let mut bind = Bind::start(&zones);
    let (updater, campus) = (updater(&bind), uri("campus.test"));
    let known = entry(&Region::new(1), 1, mandate(1, 1));
    let seen = updater.publish(&campus, &known, &Ed25519).await.unwrap();
    bind.restart(&zones, false);
    assert_eq!(updater.read(&campus).await.unwrap(), seen);
    bind.restart(&zones, true);
    let next = entry(&Region::new(1), 1, mandate(1, 2));
    let error = updater.write(&seen, &next, &Ed25519).await.unwrap_err();
    let UpdateError::Changed(now) = error else { panic!("{error}") };
    assert_eq!(now.published(), vec![]);
    updater.publish(&campus, &next, &Ed25519).await.unwrap();
    assert_eq!(found(&bind, "campus.test").await, next);
}

#[tokio::test]
async fn records_by_hand() {
    let records = "_phantom._udp.alias.campus.test. CNAME elsewhere.test.\n\
                   _phantom._udp.bad.campus.test. URI 1 2 \"https://www.campus.test/\"\n\
                   _phantom._udp.bad.campus.test. SRV 0 0 443 WWW.campus.test.\n\
                   _phantom._udp.bad.campus.test. TXT \"\" \"two; \\\"strings\\\"\"\n\
                   _phantom._udp.bad.campus.test. TXT \"v=spf1 -all\"\n";
    let zone = Zone { records: records.to_owned(), ..Zone::dynamic("campus.test") };
    let bind = Bind::start(&[zone]);
    let (updater, known) = (updater(&bind), entry(&Region::new(1), 1, mandate(1, 1)));
    let primary = Primary::Named { finder: finder(bind.at), port: bind.at.port() };
    let by_soa = Updater::new(&bind.key("campus"), primary, PATIENCE).unwrap();
    for updater in [&updater, &by_soa] {
        let error = updater.publish(&uri("alias.campus.test"), &known, &Ed25519).await.unwrap_err();
        assert!(matches!(error, UpdateError::Alias { .. }), "{error}");
    }
    // What is no entry is nobody's: it is replaced, if it is still what was seen.
    let bad = uri("bad.campus.test");
    let seen = updater.read(&bad).await.unwrap();
    assert_eq!(seen.published(), vec![]);
    let written = updater.write(&seen, &known, &Ed25519).await.unwrap();
    assert_eq!(updater.read(&bad).await.unwrap(), written);
    assert_eq!(found(&bind, "bad.campus.test").await, known);
}

/// Region-peers that follow each other, some of which do not know that they have been followed, all
/// behind a network that loses and repeats.
#[tokio::test]
async fn in_a_storm_no_older_mandate_ever_comes_back() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let campus = uri("campus.test");
    let seed = super::seed();
    let between = proxy(bind.at, Answer::storm(seed)).await;
    let mut writers = JoinSet::new();
    for node in 1..=4u8 {
        let primary = Primary::Given(between.at);
        let updater = Updater::new(&bind.key("campus"), primary, PATIENCE).unwrap();
        let campus = campus.clone();
        writers.spawn(async move {
            let mut last = None;
            for term in 1..=12u64 {
                // Distinct for each node, and growing for each.
                let at = mandate(1, term * 4 + u64::from(node));
                let next = entry(&Region::new(1), node, at);
                match updater.publish(&campus, &next, &Ed25519).await {
                    Ok(_) => last = Some(at),
                    Err(UpdateError::Deposed { by, .. }) => assert!(by > at),
                    // Its answer was lost, and another has written since.
                    Err(UpdateError::Changed(_)) => {}
                    Err(error) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
            }
            last
        });
    }
    let watcher = updater(&bind);
    let (mut highest, mut confirmed) = ([mandate(0, 0); 2], mandate(0, 0));
    let mut looks = 0;
    loop {
        let seen = watcher.read(&campus).await.unwrap();
        let there: Vec<_> = seen.published().iter().map(|one| one.entry.at()).collect();
        // An update may come between the questions for URI and for SRV and TXT.
        if let &[by_uri, by_srv] = &there[..] {
            assert!(by_uri >= highest[0] && by_srv >= highest[1], "{there:?} after {highest:?}");
            highest = [by_uri, by_srv];
        }
        looks += 1;
        match writers.try_join_next() {
            Some(ended) => confirmed = confirmed.max(ended.unwrap().unwrap_or_default()),
            None if writers.is_empty() => break,
            None => {}
        }
    }
    assert!(looks > 10 && confirmed > mandate(1, 8), "{looks} looks, at last {confirmed}");
    assert!(found(&bind, "campus.test").await.at() >= confirmed);
}

/// Whatever an entry says, the DNS gives it back in both forms.
#[tokio::test]
async fn any_entry_comes_back() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let between = middlebox(bind.at, Unknown::Refused).await;
    let updater = updater(&bind);
    let mut rng = StdRng::seed_from_u64(super::seed());
    for term in 1..=60 {
        let mut hosts = Vec::new();
        for number in 0..rng.random_range(1..=8) {
            hosts.push(match rng.random_range(0..4) {
                0 => Host::Ip(rng.random::<[u8; 16]>().map(|byte| byte & 0x3f).into()),
                1 => Host::Ip([192, 0, 2, number].into()),
                2 => Host::Name(format!("{}.example", "h".repeat(rng.random_range(1..63)))),
                _ => Host::Name(format!("h{number}.campus.test")),
            });
        }
        hosts.sort();
        hosts.dedup();
        let count = rng.random_range(0..=3);
        let proofs = (0..count).map(|_| rng.random::<[u8; 64]>().into()).collect();
        let (key, node) = (Region::new(1).key(), NodeId(rng.random()));
        let (port, at) = (rng.random_range(1..=u16::MAX), mandate(1, term));
        let Ok(known) = Entry::new(hosts, port, key, node, at, proofs) else { continue };
        let region = uri(&format!("r{}.campus.test", term % 7));
        updater.publish(&region, &known, &Ed25519).await.unwrap();
        let direct = finder(bind.at).find(&region).await.unwrap();
        assert_eq!((direct.form, &direct.published[0].entry), (Form::Uri, &known));
        let other = finder(between.at).find(&region).await.unwrap();
        assert_eq!((other.form, other.published.len()), (Form::Srv, 1));
        let other = &other.published[0].entry;
        let mut hosts = other.hosts().to_vec();
        hosts.sort();
        assert_eq!(hosts, known.hosts());
        assert_eq!((other.port(), other.node(), other.at()), (port, node, at));
        assert_eq!(other.rotated(), known.rotated());
    }
}

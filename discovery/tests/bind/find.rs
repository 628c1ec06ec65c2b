use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use phantom_discovery::dns::{
    Entry, FindError, Finder, Form, Host, How, Refusal, RegionCache, RegionError, Servers, Source,
};
use phantom_discovery::uri::{GridUri, MAX_NAME, MAX_REGION};
use phantom_model::NodeId;

use super::between::{Unknown, middlebox};
use super::server::{Bind, Zone};
use super::{Ed25519, PATIENCE, Region, entry, finder, mandate, updater, uri};

const NOW: Duration = Duration::from_secs(1_700_000_000);

fn uri_record(name: &str, entry: &Entry) -> String {
    format!("_phantom._udp.{name}. URI 10 1 \"{}\"\n", entry.to_target())
}

/// SRV and TXT records as somebody copies them into the form of a hosted zone.
fn srv_records(uri: &GridUri, entry: &Entry) -> String {
    let records = entry.to_records(uri);
    let name = uri.entry_name();
    let mut text = String::new();
    for srv in &records.srv {
        let (priority, weight, port) = (srv.priority, srv.weight, srv.port);
        text.push_str(&format!("{name}. SRV {priority} {weight} {port} {}.\n", srv.target));
    }
    let strings: Vec<_> = records.txt.iter().map(|text| format!("\"{text}\"")).collect();
    text.push_str(&format!("{name}. TXT {}\n", strings.join(" ")));
    text
}

#[tokio::test]
async fn by_uri_record() {
    let known = entry(&Region::new(1), 7, mandate(3, 41));
    let mut records = uri_record("campus.test", &known);
    records.push_str("_phantom._udp.alias.campus.test. CNAME _phantom._udp.campus.test.\n");
    records.push_str("peer.campus.test. A 198.51.100.1\npeer.campus.test. AAAA 2001:db8::1\n");
    let bind = Bind::start(&[Zone::fixed("campus.test", &records)]);
    let (finder, region) = (finder(bind.at), uri("campus.test"));
    let found = finder.find(&region).await.unwrap();
    assert_eq!(found.form, Form::Uri);
    assert_eq!(found.published.len(), 1);
    assert_eq!(found.published[0].entry, known);
    assert_eq!(finder.find(&uri("alias.campus.test")).await.unwrap(), found);
    let addresses = finder.addresses(&region, &known).await.unwrap();
    let expected: Vec<SocketAddr> = ["192.0.2.7:7777", "[2001:db8::1]:7777", "198.51.100.1:7777"]
        .map(|at| at.parse().unwrap())
        .into();
    assert_eq!(addresses, expected);
}

#[tokio::test]
async fn by_srv_and_txt_records() {
    let known = entry(&Region::new(1), 7, mandate(3, 41));
    let region = uri("campus.test");
    let mut records = srv_records(&region, &known);
    records.push_str("_phantom._udp.campus.test. TXT \"v=spf1 -all\"\n");
    let bind = Bind::start(&[Zone::fixed("campus.test", &records)]);
    let found = finder(bind.at).find(&region).await.unwrap();
    assert_eq!((found.form, found.published.len()), (Form::Srv, 1));
    assert_eq!(found.published[0].entry, known);
}

#[tokio::test]
async fn behind_a_middlebox_that_knows_no_uri_records() {
    let known = entry(&Region::new(1), 7, mandate(3, 41));
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let region = uri("campus.test");
    updater(&bind).publish(&region, &known, &Ed25519).await.unwrap();
    for (unknown, patience) in
        [(Unknown::Refused, PATIENCE), (Unknown::Lost, Duration::from_secs(4))]
    {
        let between = middlebox(bind.at, unknown).await;
        let finder = Finder::new(Servers::Given(vec![between.at]), patience);
        let found = finder.find(&region).await.unwrap();
        assert_eq!(found.form, Form::Srv);
        assert_eq!(found.published[0].entry, known);
    }
}

#[tokio::test]
async fn what_there_is_not_is_told_apart() {
    let records = "empty.campus.test. A 192.0.2.1\n\
                   _phantom._udp.lost.campus.test. CNAME nothing.campus.test.\n\
                   _phantom._udp.bad.campus.test. URI 10 1 \"https://www.campus.test/\"\n\
                   _phantom._udp.half.campus.test. SRV 10 1 7777 peer.campus.test.\n\
                   _phantom._udp.other.campus.test. TXT \"v=spf1 -all\"\n";
    let bind = Bind::start(&[Zone::fixed("campus.test", records)]);
    let finder = finder(bind.at);
    let find = async |name: &str| finder.find(&uri(name)).await.unwrap_err();
    let error = find("nobody.campus.test").await;
    assert!(matches!(error, FindError::NoSuchName { .. }), "{error}");
    for name in ["campus.test", "empty.campus.test", "lost.campus.test", "other.campus.test"] {
        let error = find(name).await;
        assert!(matches!(error, FindError::NoEntry { .. }), "{error}");
        assert!(error.to_string().contains("let its region-peer write one"), "{error}");
    }
    let error = find("bad.campus.test").await;
    assert!(matches!(error, FindError::Malformed { record: "URI", .. }), "{error}");
    assert!(error.to_string().contains("https://www.campus.test/"), "{error}");
    let error = find("half.campus.test").await;
    assert!(matches!(error, FindError::Malformed { record: "TXT", .. }), "{error}");
    // The server does not answer for others' zones.
    let error = find("elsewhere.test").await;
    assert!(matches!(error, FindError::Unreachable { .. }), "{error}");
    let known = entry(&Region::new(1), 7, mandate(1, 1));
    let host = vec![Host::Name("nobody.campus.test".to_owned())];
    let lost = Entry::new(host, 1, known.key(), known.node(), known.at(), vec![]).unwrap();
    let error = finder.addresses(&uri("campus.test"), &lost).await.unwrap_err();
    assert!(matches!(error, FindError::NoAddress { .. }), "{error}");
}

#[tokio::test]
async fn of_several_records_the_good_ones_are_told() {
    let region = Region::new(1);
    let mut records = "_phantom._udp.campus.test. URI 1 1 \"phantom://broken\"\n".to_owned();
    // More than one datagram takes: the rest of the way is TCP.
    for node in 1..=20 {
        records
            .push_str(&uri_record("campus.test", &entry(&region, node, mandate(1, node.into()))));
    }
    let bind = Bind::start(&[Zone::fixed("campus.test", &records)]);
    let found = finder(bind.at).find(&uri("campus.test")).await.unwrap();
    assert!((15..=16).contains(&found.published.len()), "{}", found.published.len());
}

/// A region that is known since a minute.
fn cache(region: &Region) -> RegionCache {
    let mut cache = RegionCache::default();
    let known = entry(region, 7, mandate(3, 41));
    let minute_ago = NOW - Duration::from_secs(60);
    cache.confirm(&uri("campus.test"), &known, known.at(), &Ed25519, minute_ago).unwrap();
    cache
}

#[tokio::test]
async fn a_server_that_is_down_or_silent_leaves_the_cached_entry() {
    let region = Region::new(1);
    let cache = cache(&region);
    let known = entry(&region, 7, mandate(3, 41));
    let mut bind = Bind::start(&[Zone::fixed("campus.test", &uri_record("campus.test", &known))]);
    let campus = uri("campus.test");
    assert!(finder(bind.at).find(&campus).await.is_ok());
    bind.stop();
    // Takes questions and answers none; neither does the port for TCP.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = silent.local_addr().unwrap();
    let _never_accepts = TcpListener::bind(at);
    let deadline = Duration::from_millis(1500);
    for (server, may_time_out) in [(bind.at, false), (at, true)] {
        let begun = Instant::now();
        let answer = Finder::new(Servers::Given(vec![server]), deadline).find(&campus).await;
        let took = begun.elapsed();
        // Room for a machine that is busy; without the deadline it would be many times that.
        assert!(took < deadline + Duration::from_secs(3), "{took:?}");
        if may_time_out {
            assert!(matches!(answer, Err(FindError::TimedOut { .. })), "{answer:?}");
        }
        let shown = answer.as_ref().unwrap_err().to_string();
        assert!(shown.contains(&server.to_string()), "{shown}");
        let current = cache.settle(&campus, answer, &Ed25519, NOW).unwrap();
        assert_eq!(current.entry, known);
        let Source::Cached { age, why } = current.source else { panic!("it is not cached") };
        assert_eq!(age, Duration::from_secs(60));
        assert!(why.is_outage());
    }
    let error = Finder::new(Servers::Given(vec![]), deadline).find(&campus).await.unwrap_err();
    assert!(matches!(error, FindError::NoServers { .. }), "{error}");
}

#[tokio::test]
async fn a_forged_record_is_refused_and_a_rotated_key_taken() {
    let (old, new, forger) = (Region::new(1), Region::new(2), Region::new(3));
    let campus = uri("campus.test");
    let mut cache = cache(&old);
    let forged = entry(&forger, 66, mandate(99, 1));
    let hosts = vec![Host::Ip([192, 0, 2, 8].into())];
    let proof = old.rotation(new.key());
    let (node, at) = (NodeId([8; 32]), mandate(4, 1));
    let rotated = Entry::new(hosts, 7777, new.key(), node, at, vec![proof.clone()]).unwrap();
    // A statement that was made for another key.
    let stolen = Entry::new(
        vec![Host::Ip([192, 0, 2, 66].into())],
        7777,
        forger.key(),
        node,
        at,
        vec![proof],
    );
    for wrong in [forged, stolen.unwrap()] {
        let bind = Bind::start(&[Zone::fixed("campus.test", &uri_record("campus.test", &wrong))]);
        let answer = finder(bind.at).find(&campus).await;
        let error = cache.settle(&campus, answer, &Ed25519, NOW).unwrap_err();
        assert!(matches!(error, RegionError::Refused(Refusal::OtherKey { .. })), "{error}");
    }
    for records in [uri_record("campus.test", &rotated), srv_records(&campus, &rotated)] {
        let bind = Bind::start(&[Zone::fixed("campus.test", &records)]);
        let answer = finder(bind.at).find(&campus).await;
        let current = cache.settle(&campus, answer, &Ed25519, NOW).unwrap();
        assert_eq!(current.entry, rotated);
        assert_eq!(current.source, Source::Fresh(How::Rotated { from: old.key() }));
    }
    cache.confirm(&campus, &rotated, at, &Ed25519, NOW).unwrap();
    assert_eq!(cache.get(&campus).unwrap().key(), new.key());
}

#[tokio::test]
async fn an_idn_zone() {
    let bind = Bind::start(&[Zone::dynamic("xn--bcher-kva.test")]);
    let known = entry(&Region::new(1), 7, mandate(1, 1));
    updater(&bind).publish(&uri("bücher.test"), &known, &Ed25519).await.unwrap();
    for name in ["Bücher.test", "xn--bcher-kva.test"] {
        assert_eq!(finder(bind.at).find(&uri(name)).await.unwrap().published[0].entry, known);
    }
}

#[tokio::test]
async fn the_longest_names() {
    let bind = Bind::start(&[Zone::dynamic("campus.test")]);
    let known = entry(&Region::new(1), 7, mandate(1, 1));
    let label = "a".repeat(62);
    // 12 for the zone, 63 for each whole label.
    let rest = "b".repeat(MAX_REGION - 12 - 3 * 63);
    let name = format!("{rest}.{label}.{label}.{label}.campus.test");
    let longest = uri(&name);
    assert_eq!(longest.entry_name().len(), MAX_NAME);
    updater(&bind).publish(&longest, &known, &Ed25519).await.unwrap();
    let found = finder(bind.at).find(&longest).await.unwrap();
    assert_eq!(found.published[0].entry, known);
    // A domain name of the DNS's own limit has no room for what goes before it.
    let most = format!("{}.{name}", "c".repeat(MAX_NAME - MAX_REGION - 1));
    assert_eq!(most.len(), MAX_NAME);
    let error = format!("grid://{most}").parse::<GridUri>().unwrap_err().to_string();
    assert!(error.contains("253 characters") && error.contains("239"), "{error}");
}

//! Different sub-grids over real QUIC on loopback.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::{Clock, SOON, config, start, start_with, two, until};
use phantom_net::key::SubgridKey;
use phantom_net::link::quic::QuicLink;
use phantom_net::link::{Connection, Link, LinkError, PeerAddr, Protocol};
use phantom_net::member::{Certificate, Terms};
use phantom_net::wire::{read_frame, write_frame};
use phantom_net::{Contact, Error, MAX_ABROAD, Network, NodeKey, Registration, SendStream};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

async fn founder(dir: &Path, name: &str, clock: &Clock) -> Network {
    let network = start(&dir.join(name), clock).await;
    network.found(name).await.unwrap();
    network
}

async fn contact(of: &Network) -> Contact {
    let subgrid = of.membership().map(|membership| membership.subgrid());
    Contact { node: of.id(), subgrid, addrs: of.addrs().await }
}

/// Answers each question with itself.
fn echo(network: &Network) {
    let network = network.clone();
    tokio::spawn(async move {
        while let Some(foreign) = network.accept_abroad().await {
            let answer = foreign.payload.clone();
            tokio::spawn(foreign.reply(answer, SOON));
        }
    });
}

#[tokio::test]
async fn two_sub_grids_talk() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = (founder(dir.path(), "a", &clock).await, founder(dir.path(), "b", &clock).await);
    echo(&a);
    echo(&b);
    let (to_a, to_b) = (contact(&a).await, contact(&b).await);
    let started = Instant::now();
    let (answer, proven) = a.ask_abroad(&to_b, b"hello".to_vec(), SOON).await.unwrap();
    let first = started.elapsed();
    assert_eq!(answer, b"hello");
    assert_eq!((proven.node, Some(proven.subgrid)), (b.id(), to_b.subgrid));
    assert_eq!(proven.addr.as_ref(), Some(&to_b.addrs[0]));
    let started = Instant::now();
    for round in 0..50u8 {
        let asked = a.ask_abroad(&to_b, vec![round; 1000], SOON).await.unwrap();
        assert_eq!(asked.0, [round; 1000]);
    }
    println!("the first question took {first:?}, 50 more {:?}", started.elapsed());
    let nowhere = Contact { addrs: vec![], ..to_a };
    let long: Vec<u8> = (0..MAX_ABROAD).map(|at| (at % 251) as u8).collect();
    for _ in 0..5 {
        let (answer, proven) = b.ask_abroad(&nowhere, long.clone(), SOON).await.unwrap();
        assert!(answer == long && proven.name == "a");
    }
    assert!(a.peers().is_empty() && b.peers().is_empty(), "they are no members of each other's");
    for node in [a, b] {
        node.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn what_is_told_arrives_also_when_both_tell_at_once() {
    const TOLD: u8 = 100;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = (founder(dir.path(), "a", &clock).await, founder(dir.path(), "b", &clock).await);
    let (to_a, to_b) = (contact(&a).await, contact(&b).await);
    let tell = async |from: &Network, to: &Contact| {
        for number in 0..TOLD {
            from.tell_abroad(to, vec![number; 20_000], SOON).await.unwrap();
        }
    };
    let hear = async |at: &Network, from: &Network| {
        let mut numbers = Vec::new();
        for _ in 0..TOLD {
            let told = timeout(SOON, at.accept_abroad()).await.unwrap().unwrap();
            assert!(told.peer == from.id() && !told.asks() && told.payload.len() == 20_000);
            numbers.push(told.payload[0]);
        }
        numbers.sort();
        assert_eq!(numbers, (0..TOLD).collect::<Vec<_>>());
    };
    tokio::join!(tell(&a, &to_b), tell(&b, &to_a), hear(&a, &b), hear(&b, &a));
}

#[tokio::test]
async fn another_instance_of_a_node_is_found_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = (founder(dir.path(), "a", &clock).await, founder(dir.path(), "b", &clock).await);
    echo(&b);
    let to_b = contact(&b).await;
    a.ask_abroad(&to_b, vec![1], SOON).await.unwrap();
    let PeerAddr::Ip(addr) = to_b.addrs[0] else { panic!() };
    b.shutdown(SOON).await;
    drop(b);
    let gone = a.ask_abroad(&to_b, vec![2], Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(gone, Error::Unreachable { .. } | Error::Cut { .. }), "{gone}");
    let mut again = config(&dir.path().join("b"), &clock);
    again.listen = addr;
    let b = start_with(again).await;
    echo(&b);
    assert_eq!(a.ask_abroad(&to_b, vec![3], SOON).await.unwrap().0, [3]);
    // It reaches the other without its address.
    let to_a = Contact { addrs: vec![], ..contact(&a).await };
    echo(&a);
    assert_eq!(b.ask_abroad(&to_a, vec![4], SOON).await.unwrap().0, [4]);
}

/// A link without a node, and its key.
async fn stranger(dir: &Path, clock: &Clock) -> (QuicLink, NodeKey) {
    let key = NodeKey::ephemeral();
    (QuicLink::bind(&config(dir, clock), &key).await.unwrap(), key)
}

fn certificate(by: &SubgridKey, node: &NodeKey, now: u64) -> Certificate {
    let terms = Terms {
        subgrid: by.id(),
        node: node.id(),
        name: "stranger".to_owned(),
        not_before: now,
        expires: now + 3600,
        serial: 1,
    };
    Certificate::issue(by, terms).unwrap()
}

/// Connects and shows `certificate`; or why that was refused.
async fn show(
    link: &QuicLink,
    certificate: &Certificate,
    to: &Network,
) -> Result<std::sync::Arc<dyn Connection>, LinkError> {
    let connection = link.dial(to.id(), &to.addrs().await, Protocol::Abroad).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    write_frame(&mut stream, &(certificate,), 1024).await.unwrap();
    match read_frame::<(Certificate,)>(&mut stream, 1024).await {
        Ok(_) => Ok(connection),
        Err(_) => Err(timeout(SOON, connection.closed()).await.unwrap()),
    }
}

#[tokio::test]
async fn strangers_are_let_in_as_who_they_are_and_no_further() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let a = founder(dir.path(), "a", &clock).await;
    let (link, key) = stranger(&dir.path().join("s"), &clock).await;
    let own = SubgridKey::ephemeral();
    let good = certificate(&own, &key, a.now());
    let (other, _) = stranger(&dir.path().join("o"), &clock).await;
    for bad in [certificate(&own, &key, a.now() + 1000), certificate(&own, &key, a.now() - 3601)] {
        let refused = show(&link, &bad, &a).await.map(drop).unwrap_err().to_string();
        assert!(refused.contains("check the clock"), "{refused}");
    }
    // Somebody else's, by who has another key.
    let refused = show(&other, &good, &a).await.map(drop).unwrap_err().to_string();
    assert!(refused.contains("certificate is that of node"), "{refused}");
    let (none, _) = stranger(&dir.path().join("n"), &clock).await;
    let connection = none.dial(a.id(), &a.addrs().await, Protocol::Abroad).await.unwrap();
    let mut first: SendStream = connection.open().await.unwrap().split().0;
    first.write_all(&[9, 0, 0, 0]).await.unwrap();
    assert!(timeout(Duration::from_millis(300), connection.open()).await.is_err(), "a second one");
    timeout(SOON, connection.closed()).await.unwrap();

    let connection = show(&link, &good, &a).await.unwrap();
    let mut streams = Vec::new();
    while let Ok(opened) = timeout(Duration::from_millis(500), connection.open()).await {
        let mut stream = opened.unwrap();
        stream.write_all(&[2, 1, 0, 0, 0, 7]).await.unwrap();
        streams.push(stream);
    }
    // That one has ended may be told with the next only.
    assert!((15..=16).contains(&streams.len()), "{}", streams.len());
    for _ in 0..streams.len() {
        let foreign = timeout(SOON, a.accept_abroad()).await.unwrap().unwrap();
        let shown = (foreign.peer, foreign.subgrid, foreign.name.as_str());
        assert_eq!(shown, (key.id(), own.id(), "stranger"));
        foreign.reply(vec![], SOON).await.unwrap();
    }
    drop(streams);
    timeout(SOON, connection.open()).await.unwrap().unwrap();
    a.shutdown(SOON).await;
    timeout(SOON, connection.closed()).await.unwrap();
}

#[tokio::test]
async fn who_floods_is_held_to_the_rate() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = (founder(dir.path(), "a", &clock).await, founder(dir.path(), "b", &clock).await);
    let (link, key) = stranger(&dir.path().join("s"), &clock).await;
    let good = certificate(&SubgridKey::ephemeral(), &key, a.now());
    let connection = show(&link, &good, &a).await.unwrap();
    let started = Instant::now();
    let flood = async {
        for _ in 0..2000 {
            let Ok(Ok(mut stream)) = timeout(SOON, connection.open()).await else { panic!() };
            let _ = stream.write_all(&[1, 1, 0, 0, 0, 7]).await;
            let _ = stream.shutdown().await;
        }
    };
    let mut heard = 0;
    let hear = async {
        while let Ok(told) = timeout(Duration::from_millis(500), a.accept_abroad()).await {
            assert_eq!(told.unwrap().peer, key.id());
            heard += 1;
        }
    };
    tokio::join!(flood, hear);
    let most = 200 + (started.elapsed().as_secs_f64() * 100.0) as u32;
    assert!((200..=most).contains(&heard), "{heard} of at most {most}");
    echo(&a);
    assert_eq!(b.ask_abroad(&contact(&a).await, vec![1], SOON).await.unwrap().0, [1]);
}

#[tokio::test]
async fn who_may_let_others_in_registers_with_a_region() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let name = "campus.example.org";
    let one = a.register(name, [7; 32], "physics", false).await.unwrap();
    assert_eq!(Registration::read(&one.to_bytes(), a.now()).unwrap(), one);
    assert_eq!(one.subgrid(), a.membership().unwrap().subgrid());
    let error = b.register(name, [7; 32], "physics", false).await.unwrap_err();
    assert!(matches!(error, Error::MayNotAccept { .. }), "{error}");
    let error = a.register("Campus", [7; 32], "physics", false).await.unwrap_err();
    assert!(matches!(error, Error::Registration(_)), "{error}");
    a.delegate(b.id()).await.unwrap();
    until(&b, "b is a delegate", || b.membership().unwrap().may_accept).await;
    let leaves = b.register(name, [7; 32], "physics", true).await.unwrap();
    assert!(leaves.leaves() && leaves.seal().delegation().is_some());
    assert_eq!(Registration::read(&leaves.to_bytes(), a.now()).unwrap().subgrid(), one.subgrid());
}

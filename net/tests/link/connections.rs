//! Connections between members: many, crossing, lost and made again.

use std::time::{Duration, Instant};

use crate::common::{Clock, SOON, config, echo, sees_all, start, start_with, two, until};
use phantom_net::{
    Config, Error, Incoming, Network, PeerAddr, PeerState, ServiceId, config::Timing,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_nodes_all_connect() {
    const NODES: usize = 20;
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let founder = start(&dir.path().join("0"), &clock).await;
    founder.found("n0").await.unwrap();
    let mut nodes = vec![founder];
    let started = Instant::now();
    for number in 1..NODES {
        let node = start(&dir.path().join(number.to_string()), &clock).await;
        let token = nodes[0].invite(Duration::from_secs(60)).await.unwrap();
        node.join(&token, &format!("n{number}")).await.unwrap();
        nodes.push(node);
    }
    let joined = started.elapsed();
    for node in &nodes {
        until(node, "all connected", || sees_all(node, NODES - 1)).await;
    }
    println!("{NODES} nodes joined in {joined:?}, all connected after {:?}", started.elapsed());
    for node in nodes {
        node.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn dials_that_cross_leave_one_connection_and_lose_nothing() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    a.connect(b.id(), SOON).await.unwrap();
    echo(&a);
    echo(&b);
    let service = ServiceId::new("echo").unwrap();
    for round in 0..10u8 {
        // Both start without a connection and with the other's address.
        a.network_changed().await;
        b.network_changed().await;
        let request = vec![round];
        let (to_b, to_a) = tokio::join!(
            a.call::<_, Vec<u8>>(b.id(), &service, &request, SOON),
            b.call::<_, Vec<u8>>(a.id(), &service, &request, SOON),
        );
        assert_eq!((to_b.unwrap(), to_a.unwrap()), (request.clone(), request));
    }
}

#[tokio::test]
async fn a_killed_peer_is_noticed_and_found_again() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    a.connect(b.id(), SOON).await.unwrap();
    let PeerAddr::Ip(addr) = b.addrs().await.remove(0) else { panic!() };
    let id = b.id();
    b.shutdown(SOON).await;
    drop(b);
    until(&a, "a notices", || matches!(a.peer_state(id), PeerState::Unreachable { .. })).await;
    let error = a.connect(id, Duration::from_millis(700)).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");

    // Another test may have been given the port meanwhile.
    let is_free = || std::net::UdpSocket::bind(addr).is_ok();
    until(&a, "the port is free", is_free).await;
    let mut again = config(&dir.path().join("b"), &clock);
    again.listen = addr;
    let b = start_with(again).await;
    echo(&b);
    let service = ServiceId::new("echo").unwrap();
    let answer: Vec<u8> = a.call(id, &service, &vec![1u8], SOON).await.unwrap();
    assert_eq!(answer, [1]);
}

async fn pair(a: &Network, b: &Network) -> (phantom_net::Stream, Incoming) {
    let service = ServiceId::new("pipe").unwrap();
    let (opened, incoming) =
        tokio::join!(a.open(b.id(), &service, &("path", 7u8), SOON), b.accept());
    (opened.unwrap(), incoming.unwrap())
}

#[tokio::test]
async fn streams_carry_their_header_and_tell_an_end_from_a_break() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    let (mut near, mut far) = pair(&a, &b).await;
    assert_eq!((far.peer, far.service.as_str()), (a.id(), "pipe"));
    assert_eq!(far.header::<(String, u8)>().unwrap(), ("path".to_owned(), 7));
    assert!(matches!(far.header::<u8>(), Err(Error::Protocol { .. })));
    near.write_all(b"abc").await.unwrap();
    near.shutdown().await.unwrap();
    let mut all = Vec::new();
    far.stream.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"abc");

    // Dropped without an end: the reader gets an error, not an end.
    let (near, mut far) = pair(&a, &b).await;
    drop(near);
    assert!(far.stream.read_to_end(&mut all).await.is_err());

    // Nobody answers: the caller is told.
    let service = ServiceId::new("mute").unwrap();
    let call = a.call::<_, u8>(b.id(), &service, &1u8, SOON);
    let (called, incoming) = tokio::join!(call, async { drop(b.accept().await) });
    let () = incoming;
    assert!(matches!(called, Err(Error::Cut { .. })), "{called:?}");
}

#[tokio::test]
async fn what_one_tells_without_waiting_for_an_answer_arrives() {
    const TOLD: u32 = 100;
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    let service = ServiceId::new("told").unwrap();
    let heard = async {
        let mut numbers = Vec::new();
        for _ in 0..TOLD {
            let incoming = tokio::time::timeout(SOON, b.accept()).await;
            let (number, _): (u32, Vec<u8>) = incoming.unwrap().unwrap().header().unwrap();
            numbers.push(number);
        }
        numbers.sort_unstable();
        numbers
    };
    let tell = async {
        for number in 0..TOLD {
            a.tell(b.id(), &service, &(number, vec![7u8; 30 << 10]), SOON).await.unwrap();
        }
    };
    let ((), numbers) = tokio::join!(tell, heard);
    assert!(numbers.into_iter().eq(0..TOLD));

    // And what is too long for that, with an answer that says nothing.
    let parcel = vec![7u8; 1 << 20];
    let deliver = a.deliver(b.id(), &service, &7u8, &parcel, SOON);
    let take = async {
        let mut incoming = b.accept().await.unwrap();
        let taken: Vec<u8> = incoming.request(SOON).await.unwrap();
        assert_eq!((incoming.header::<u8>().unwrap(), taken.len()), (7, parcel.len()));
        incoming.reply(&(), SOON).await.unwrap();
    };
    let (delivered, ()) = tokio::join!(deliver, take);
    delivered.unwrap();
}

#[tokio::test]
async fn requests_are_bounded_and_have_deadlines() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    let service = ServiceId::new("slow").unwrap();
    let started = Instant::now();
    let call = a.call::<_, u8>(b.id(), &service, &1u8, Duration::from_millis(300));
    let (called, held) = tokio::join!(call, b.accept());
    assert!(matches!(called, Err(Error::Deadline { .. })), "{called:?}");
    assert!(started.elapsed() < Duration::from_secs(3));
    drop(held);
    let huge = vec![0u8; 5 << 20];
    let called = a.call::<_, u8>(b.id(), &service, &huge, SOON).await;
    assert!(matches!(called, Err(Error::Protocol { .. })), "{called:?}");
    let header = vec![0u8; 65 << 10];
    let opened = a.open(b.id(), &service, &header, SOON).await;
    assert!(matches!(opened, Err(Error::Protocol { .. })));
    let stranger = phantom_net::NodeKey::ephemeral().id();
    assert!(matches!(a.connect(stranger, SOON).await, Err(Error::UnknownPeer(_))));
}

/// What both have sent to each other so far: datagrams of UDP, and bytes with their headers.
fn sent(a: &Network, b: &Network) -> u64 {
    let of = |network: &Network| network.peers().iter().map(|peer| peer.bytes_out).sum::<u64>();
    of(a) + of(b)
}

#[tokio::test]
async fn a_connection_at_rest_costs_little_and_its_pulses_are_not_kept() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let usual =
        |name: &str| Config { timing: Timing::default(), ..config(&dir.path().join(name), &clock) };
    let (a, b) = (start_with(usual("a")).await, start_with(usual("b")).await);
    a.found("a").await.unwrap();
    b.join(&a.invite(SOON).await.unwrap(), "b").await.unwrap();
    a.connect(b.id(), SOON).await.unwrap();
    echo(&b);
    until(&b, "connected", || sees_all(&b, 1)).await;
    // Until what belongs to its making (the search for the largest packet) is over.
    let window = Duration::from_secs(8);
    let (mut rates, mut before) = (Vec::new(), sent(&a, &b));
    println!("made with {before} bytes of UDP");
    while rates.len() < 4 && rates.last().is_none_or(|rate| *rate > 20.0) {
        tokio::time::sleep(window).await;
        let now = sent(&a, &b);
        rates.push((now - before) as f64 / window.as_secs_f64());
        before = now;
    }
    println!("at rest, bytes of UDP a second, both ways: {rates:.1?}");
    assert!(rates.last().is_some_and(|rate| (1.0..=20.0).contains(rate)), "{rates:?}");
    let before = sent(&a, &b);
    let service = ServiceId::new("echo").unwrap();
    for _ in 0..20 {
        a.tell(b.id(), &service, &vec![7u8; 100], SOON).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("one of 100 bytes: {} bytes of UDP, both ways", (sent(&a, &b) - before) / 20);
    let mut stream = a.open(b.id(), &service, &(), SOON).await.unwrap();
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(a.peer_state(b.id()), PeerState::Connected);
    }
    stream.write_all(b"x").await.unwrap();
}

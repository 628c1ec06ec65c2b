//! Joining, and what strangers get, over real QUIC on loopback.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{Clock, SOON, config, echo, start, two, until};
use phantom_net::link::quic::QuicLink;
use phantom_net::link::{CloseCode, Connection, Link, LinkError, PeerAddr, Protocol};
use phantom_net::member::{Certificate, JoinRefusal, Terms};
use phantom_net::wire::write_frame;
use phantom_net::{Error, FileStore, Network, NodeKey, PeerState, ServiceId, Store, Stream, Token};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

#[tokio::test]
async fn a_node_joins_and_both_talk() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    assert_eq!(b.membership().unwrap().name(), "b");
    assert!(!b.membership().unwrap().founder);
    echo(&a);
    echo(&b);
    let service = ServiceId::new("echo").unwrap();
    for (from, to) in [(&a, &b), (&b, &a)] {
        let answer: Vec<u8> = from.call(to.id(), &service, &b"hi".to_vec(), SOON).await.unwrap();
        assert_eq!(answer, b"hi");
    }
    let status = a.peers().remove(0);
    assert_eq!((status.name.as_str(), status.state), ("b", PeerState::Connected));
    assert!(status.rtt.is_some() && status.bytes_in > 0 && status.path.is_some());
    for node in [a, b] {
        node.shutdown(SOON).await;
    }
}

#[tokio::test]
async fn membership_survives_a_restart_and_third_nodes_become_known() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    // The wanted name is taken: the founder finds a free one.
    let token = a.invite(Duration::from_secs(60)).await.unwrap();
    assert_eq!(c.join(&token, "b").await.unwrap().name(), "b-2");
    until(&b, "b hears of c", || b.members().len() == 3).await;
    b.connect(c.id(), SOON).await.unwrap();

    let id = c.id();
    c.shutdown(SOON).await;
    let c = start(&dir.path().join("c"), &clock).await;
    assert_eq!(c.id(), id);
    assert_eq!(c.membership().unwrap().name(), "b-2");
    c.connect(b.id(), SOON).await.unwrap();
}

async fn refusal(node: &Network, token: &Token) -> JoinRefusal {
    match node.join(token, "x").await.unwrap_err() {
        Error::Refused { refusal, .. } => refusal,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_token_is_good_for_one_node() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let a = start(&dir.path().join("a"), &clock).await;
    a.found("a").await.unwrap();
    let token = a.invite(Duration::from_secs(60)).await.unwrap();
    let b = start(&dir.path().join("b"), &clock).await;
    let first = b.join(&token, "b").await.unwrap();
    assert!(matches!(b.join(&token, "b").await, Err(Error::AlreadyMember { .. })));

    // The same node lost everything but its key: it gets the same certificate, also after the
    // founder has restarted.
    b.leave().await.unwrap();
    a.shutdown(SOON).await;
    let a = start(&dir.path().join("a"), &clock).await;
    let token = Token { addrs: a.addrs().await, ..token };
    assert_eq!(b.join(&token, "other-name").await.unwrap().certificate, first.certificate);

    let c = start(&dir.path().join("c"), &clock).await;
    assert_eq!(refusal(&c, &token).await, JoinRefusal::Used);
}

#[tokio::test]
async fn expired_wrong_and_foreign_tokens_are_refused() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let c = start(&dir.path().join("c"), &clock).await;
    let error = b.invite(SOON).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "this node may not let others in: do it on a; who holds the sub-grid's key can give this node \
         the right with `phantom delegate`"
    );
    assert!(matches!(c.invite(SOON).await, Err(Error::NotMember)));

    let token = a.invite(Duration::from_secs(60)).await.unwrap();
    let guess = Token { secret: [0; 16], ..token.clone() };
    assert_eq!(refusal(&c, &guess).await, JoinRefusal::Unknown);
    let other = Token { subgrid: phantom_model::SubgridId([1; 32]), ..token.clone() };
    assert_eq!(refusal(&c, &other).await, JoinRefusal::OtherSubgrid);
    // Another node at the inviter's address cannot take its place.
    let impostor = Token { inviter: NodeKey::ephemeral().id(), ..token.clone() };
    assert!(matches!(c.join(&impostor, "x").await, Err(Error::Unreachable { .. })));
    assert!(matches!(c.join(&token, "no name").await, Err(Error::Certificate(_))));

    // A clock that is off, on the joiner's side.
    let off = Clock::new();
    off.advance(4000);
    let token_long = a.invite(Duration::from_secs(9000)).await.unwrap();
    let d = start(&dir.path().join("d"), &off).await;
    assert!(matches!(refusal(&d, &token_long).await, JoinRefusal::Clock { .. }));

    clock.advance(61);
    assert!(matches!(c.join(&token, "x").await, Err(Error::Token(_))));
}

/// Dials `to` as the node whose state is in `dir`, showing `certificate`.
async fn dial_with(
    dir: &Path,
    clock: &Clock,
    to: &Network,
    certificate: Certificate,
) -> (QuicLink, Arc<dyn Connection>, Stream) {
    let key = NodeKey::load_or_create(dir).unwrap();
    let link = QuicLink::bind(&config(dir, clock), &key).await.unwrap();
    let connection = link.dial(to.id(), &to.addrs().await, Protocol::Member).await.unwrap();
    let mut stream = connection.open().await.unwrap();
    let hello = (certificate, 0u64, 0u64, None::<u16>, Vec::<PeerAddr>::new());
    write_frame(&mut stream, &hello, 9999).await.unwrap();
    (link, connection, stream)
}

#[tokio::test]
async fn a_node_of_another_sub_grid_is_told_why_it_is_refused() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let a = start(&dir.path().join("a"), &clock).await;
    a.found("a").await.unwrap();
    let own_dir = dir.path().join("b");
    let b = start(&own_dir, &clock).await;
    let foreign = b.found("b").await.unwrap().certificate;
    b.shutdown(SOON).await;

    let (_link, connection, mut stream) = dial_with(&own_dir, &clock, &a, foreign.clone()).await;
    let LinkError::ClosedByPeer { code, reason } = closed(&*connection).await else {
        panic!("not closed by the other side");
    };
    assert_eq!(code, Some(CloseCode::NotAdmitted));
    assert!(reason.contains("`b` is a member of sub-grid"), "{reason}");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.is_empty(), "a stranger gets no certificate");

    // Somebody else's certificate.
    let own = a.membership().unwrap().certificate;
    let (_link, connection, _stream) = dial_with(&dir.path().join("c"), &clock, &a, own).await;
    let LinkError::ClosedByPeer { reason, .. } = closed(&*connection).await else { panic!() };
    assert!(reason.contains("the certificate is that of node"), "{reason}");
    assert!(a.peers().is_empty());
}

#[tokio::test]
async fn a_certificate_that_was_edited_is_refused_and_so_is_the_store_that_holds_it() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let genuine = b.membership().unwrap().certificate;
    b.shutdown(SOON).await;
    drop(b);
    // A year more.
    let Terms { expires, .. } = *genuine.terms();
    let later = postcard::to_stdvec(&(expires * 2)).unwrap();
    let mut bytes = postcard::to_stdvec(&genuine).unwrap();
    let before = postcard::to_stdvec(&expires).unwrap();
    let at = bytes.windows(before.len()).position(|part| part == before).unwrap();
    bytes.splice(at..at + before.len(), later);
    let edited: Certificate = postcard::from_bytes(&bytes).unwrap();
    assert_eq!(edited.terms().expires, expires * 2);

    let own_dir = dir.path().join("b");
    let (_link, connection, _stream) = dial_with(&own_dir, &clock, &a, edited).await;
    let LinkError::ClosedByPeer { code, reason } = closed(&*connection).await else { panic!() };
    assert_eq!(code, Some(CloseCode::NotAdmitted));
    assert!(reason.contains("of `b` is not signed by sub-grid"), "{reason}");

    let store = FileStore::open(&own_dir.join("store")).unwrap();
    store.put("net/membership", &bytes).unwrap();
    drop(store);
    let b = start(&own_dir, &clock).await;
    assert!(b.membership().is_none());
    for error in [b.standing().unwrap_err(), b.found("b").await.unwrap_err()] {
        assert!(error.to_string().contains("is not signed by"), "{error}");
    }
    let token = a.invite(SOON).await.unwrap();
    assert_eq!(b.join(&token, "b").await.unwrap().name(), "b");
    b.connect(a.id(), SOON).await.unwrap();
}

#[tokio::test]
async fn a_member_whose_certificate_is_over_joins_again_and_no_other_does() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let first = b.membership().unwrap().certificate;
    let early = a.invite(SOON).await.unwrap();
    assert!(matches!(b.join(&early, "b").await, Err(Error::AlreadyMember { .. })));
    clock.advance(phantom_net::member::VALIDITY_S + 1);
    let token = a.invite(SOON).await.unwrap();
    let second = b.join(&token, "b").await.unwrap().certificate;
    assert_eq!((second.terms().name.as_str(), second.terms().node), ("b", b.id()));
    assert!(second.terms().serial > first.terms().serial);

    // The founder, whom nobody can invite, has only to be started again.
    assert!(b.connect(a.id(), Duration::from_secs(1)).await.is_err());
    let id = a.id();
    a.shutdown(SOON).await;
    drop(a);
    let a = start(&dir.path().join("a"), &clock).await;
    assert_eq!(a.id(), id);
    a.connect(b.id(), SOON).await.unwrap();
}

#[tokio::test]
async fn a_member_that_breaks_the_protocol_is_dropped() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let certificate = b.membership().unwrap().certificate;
    b.shutdown(SOON).await;
    for bytes in [&u32::MAX.to_le_bytes()[..], &[3, 0, 0, 0, 255, 255, 255]] {
        let dir = dir.path().join("b");
        let (_link, connection, _first) = dial_with(&dir, &clock, &a, certificate.clone()).await;
        let mut stream = timeout(SOON, connection.open()).await.unwrap().unwrap();
        stream.write_all(bytes).await.unwrap();
        let why = closed(&*connection).await;
        assert!(
            matches!(why, LinkError::ClosedByPeer { code: Some(CloseCode::Protocol), .. }),
            "{why}"
        );
    }
}

async fn stranger(dir: &Path, clock: &Clock) -> QuicLink {
    QuicLink::bind(&config(dir, clock), &NodeKey::ephemeral()).await.unwrap()
}

async fn closed(connection: &dyn Connection) -> LinkError {
    timeout(SOON, connection.closed()).await.expect("closed in time")
}

#[tokio::test]
async fn a_stranger_gets_nothing_but_the_join_exchange() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, _b) = two(dir.path(), &clock).await;
    let link = stranger(dir.path(), &clock).await;
    let addrs = a.addrs().await;

    // Silence: closed after the time for certificates.
    let connection = link.dial(a.id(), &addrs, Protocol::Member).await.unwrap();
    let mut first = connection.open().await.unwrap();
    // One stream is all a stranger can open.
    assert!(timeout(Duration::from_millis(300), connection.open()).await.is_err());
    // Nonsense instead of a certificate.
    first.write_all(&[3, 0, 0, 0, 1, 2, 3]).await.unwrap();
    assert!(matches!(
        closed(&*connection).await,
        LinkError::ClosedByPeer { code: Some(CloseCode::Protocol), .. }
    ));

    // An oversize frame is not even read.
    for protocol in [Protocol::Member, Protocol::Join] {
        let connection = link.dial(a.id(), &addrs, protocol).await.unwrap();
        let mut stream = connection.open().await.unwrap();
        stream.write_all(&u32::MAX.to_le_bytes()).await.unwrap();
        let LinkError::ClosedByPeer { reason, .. } = closed(&*connection).await else { panic!() };
        assert!(reason.contains("at most"), "{reason}");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(answer.is_empty());
    }

    // Another protocol is refused by the handshake itself.
    let strangers = a.peers().iter().filter(|peer| peer.name != "b").count();
    assert_eq!(strangers, 0);
}

#[tokio::test]
async fn expiry_ends_live_connections_with_the_reason() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    a.connect(b.id(), SOON).await.unwrap();
    clock.advance(phantom_net::member::VALIDITY_S + 1);
    let expired = |network: &Network, peer| match network.peer_state(peer) {
        PeerState::Unreachable { reason } => reason.contains("expired"),
        _ => false,
    };
    until(&a, "the connection ends", || expired(&a, b.id())).await;
    until(&b, "the other side knows", || expired(&b, a.id())).await;
}

#[tokio::test]
async fn a_taken_port_is_said_clearly() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let a = start(&dir.path().join("a"), &clock).await;
    let PeerAddr::Ip(addr) = a.addrs().await.remove(0) else { panic!() };
    let mut config = config(&dir.path().join("b"), &clock);
    config.listen = addr;
    let store = Arc::new(phantom_net::MemoryStore::default());
    let error = Network::start(config, NodeKey::ephemeral(), store).await.err().unwrap();
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
}

//! Networks over the in-memory link: what the connections of two nodes do to each other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};

use super::PeerState;
use crate::config::Timing;
use crate::link::memory::Switchboard;
use crate::link::{CloseCode, LinkError};
use crate::{Config, Error, MemoryStore, Network, NodeKey, ServiceId, Stream};

const SOON: Duration = Duration::from_secs(20);

/// A node that looks for others only when asked.
async fn node(dir: &Path, board: &Switchboard) -> Network {
    let key = NodeKey::ephemeral();
    let timing = Timing { seek: Duration::from_secs(3600), ..Timing::default() };
    let config = Config { timing, ..Config::new(dir.join(key.id().short())) };
    let link = Arc::new(board.link(key.id()));
    Network::with_link(config, &key, Arc::new(MemoryStore::default()), link).await.unwrap()
}

async fn two(dir: &Path, board: &Switchboard) -> (Network, Network) {
    let (a, b) = (node(dir, board).await, node(dir, board).await);
    a.found("a").await.unwrap();
    b.join(&a.invite(SOON).await.unwrap(), "b").await.unwrap();
    a.connect(b.id(), SOON).await.unwrap();
    (a, b)
}

fn echo(network: &Network) {
    let network = network.clone();
    tokio::spawn(async move {
        while let Some(mut incoming) = network.accept().await {
            tokio::spawn(async move {
                if incoming.service != ServiceId::CONTROL {
                    let (mut send, mut recv) = incoming.stream.split();
                    let _ = tokio::io::copy(&mut recv, &mut send).await;
                    return Ok(());
                }
                let request: u32 = incoming.request(SOON).await?;
                incoming.reply(&request, SOON).await
            });
        }
    });
}

async fn call(from: &Network, to: &Network, request: u32) -> Result<u32, Error> {
    from.call(to.id(), &ServiceId::CONTROL, &request, SOON).await
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// Whether `network` has no connection to `peer`.
fn lost(network: &Network, peer: &Network) -> bool {
    network.inner().table.current(peer.id()).is_none()
}

/// Cuts the line until both have noticed, and mends it.
async fn interrupt(board: &Switchboard, a: &Network, b: &Network) {
    board.cut(a.id(), b.id());
    eventually("cut", || lost(a, b) && lost(b, a)).await;
    board.mend(a.id(), b.id());
}

#[tokio::test(start_paused = true)]
async fn crossing_dials_end_with_one_connection() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    echo(&a);
    echo(&b);
    for round in 0..20 {
        interrupt(&board, &a, &b).await;
        let (there, back) = tokio::join!(call(&a, &b, round), call(&b, &a, round));
        assert_eq!((there.unwrap(), back.unwrap()), (round, round));
        let count = |n: &Network, peer| n.inner().table.count(peer);
        eventually("one is left", || count(&a, b.id()) == 1 && count(&b, a.id()) == 1).await;
        assert_eq!(call(&a, &b, 7).await.unwrap(), 7);
    }
}

/// Opens a stream to a service that answers each byte with the same byte.
async fn pipe(from: &Network, to: &Network) -> Stream {
    let service = ServiceId::new("pipe").unwrap();
    from.open(to.id(), &service, &(), SOON).await.unwrap()
}

async fn ping(stream: &mut Stream, byte: u8) -> std::io::Result<u8> {
    stream.write_all(&[byte]).await?;
    stream.read_u8().await
}

#[tokio::test(start_paused = true)]
async fn a_stream_opened_while_dials_cross_lives_on() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    echo(&a);
    echo(&b);
    for round in 0..20 {
        interrupt(&board, &a, &b).await;
        // Each takes the first connection it gets, whichever that is.
        let (mut there, mut back) = tokio::join!(pipe(&a, &b), pipe(&b, &a));
        // Long enough for everything that is superfluous to be closed.
        for _ in 0..8 {
            sleep(Duration::from_secs(2)).await;
            assert_eq!(ping(&mut there, round).await.unwrap(), round);
            assert_eq!(ping(&mut back, round).await.unwrap(), round);
            assert_eq!(a.peer_state(b.id()), PeerState::Connected);
            assert_eq!(b.peer_state(a.id()), PeerState::Connected);
        }
        drop((there, back));
        let count = |n: &Network, peer| n.inner().table.count(peer);
        eventually("one is left", || count(&a, b.id()) == 1 && count(&b, a.id()) == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_only_the_peer_has_lost_is_used_no_more_once_it_has_dialled() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    echo(&a);
    echo(&b);
    for (near, far) in [(&a, &b), (&b, &a)] {
        interrupt(&board, &a, &b).await;
        near.connect(far.id(), SOON).await.unwrap();
        // The outage is over when `far` has just given the connection up and `near` has not yet.
        sleep(Duration::from_secs(1)).await;
        board.lose(far.id(), near.id());
        eventually("lost", || lost(far, near)).await;
        assert_eq!(near.peer_state(far.id()), PeerState::Connected);
        assert_eq!(call(far, near, 1).await.unwrap(), 1);
        assert_eq!(call(near, far, 2).await.unwrap(), 2);
        assert_eq!(near.inner().table.count(far.id()), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_reported_and_mended_on_demand() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    echo(&b);
    board.cut(a.id(), b.id());
    eventually("noticed", || matches!(a.peer_state(b.id()), PeerState::Unreachable { .. })).await;
    let error = a.connect(b.id(), Duration::from_secs(3)).await.unwrap_err();
    assert!(error.to_string().contains("cannot reach node"), "{error}");

    // Somebody waits while the network comes back.
    let (mending, waiting) = (board.clone(), call(&a, &b, 5));
    let (a_id, b_id) = (a.id(), b.id());
    let mend = async move {
        sleep(Duration::from_secs(5)).await;
        mending.mend(a_id, b_id);
    };
    let (answer, ()) = tokio::join!(waiting, mend);
    assert_eq!(answer.unwrap(), 5);
    assert_eq!(a.peer_state(b.id()), PeerState::Connected);
}

#[tokio::test(start_paused = true)]
async fn shutting_down_ends_waits_and_is_told_to_peers() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    let waiting = b.clone();
    let accepting = tokio::spawn(async move { waiting.accept().await.is_none() });
    b.shutdown(SOON).await;
    assert!(accepting.await.unwrap());
    assert!(matches!(b.connect(a.id(), SOON).await, Err(Error::ShutDown)));
    // Not by silence: the fake link has none.
    eventually("a is told", || a.peer_state(b.id()) != PeerState::Connected).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_and_silent_is_dead_soon_and_what_is_at_rest_is_not() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    echo(&b);
    let timing = Timing::default();
    board.hush(a.id(), b.id(), true);
    sleep(Duration::from_secs(600)).await;
    assert!(!lost(&a, &b), "nobody has asked");
    board.hush(a.id(), b.id(), false);
    let stream = pipe(&a, &b).await;
    sleep(Duration::from_secs(600)).await;
    assert!(!lost(&a, &b), "it answers");
    board.hush(a.id(), b.id(), true);
    sleep(timing.silent - timing.pulse * 2).await;
    assert!(!lost(&a, &b), "too soon");
    sleep(timing.pulse * 3).await;
    assert!(lost(&a, &b), "too late");
    // Which of the two was first, the other is told.
    match (a.peer_state(b.id()), b.peer_state(a.id())) {
        (PeerState::Unreachable { reason: a }, PeerState::Unreachable { reason: b }) => {
            assert!(a.contains("no answer") || b.contains("no answer"), "{a}, {b}");
        }
        other => panic!("{other:?}"),
    }
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn who_is_said_to_be_gone_has_to_answer() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    for _ in 0..3 {
        a.doubt(b.id());
        sleep(Duration::from_secs(60)).await;
        assert!(!lost(&a, &b), "it answers");
    }
    board.hush(a.id(), b.id(), true);
    a.doubt(b.id());
    sleep(Duration::from_millis(900)).await;
    board.hush(a.id(), b.id(), false);
    sleep(Duration::from_secs(60)).await;
    assert!(!lost(&a, &b), "it has answered in time");
    board.hush(a.id(), b.id(), true);
    a.doubt(b.id());
    sleep(Timing::default().doubted + Duration::from_millis(500)).await;
    assert!(lost(&a, &b), "it has not");
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_closes_for_a_better_connection_is_not_out_of_reach() {
    for (code, out_of_reach) in [(CloseCode::Duplicate, false), (CloseCode::Done, true)] {
        let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
        let (a, b) = two(dir.path(), &board).await;
        let mut seen = a.peer_changes();
        // Nothing else happens before it is looked: either side would make a new one at once.
        let why = LinkError::ClosedByPeer { code: Some(code), reason: "for a reason".to_owned() };
        // There may be two, one that each side has made.
        while let Some(live) = a.inner().table.current(b.id()) {
            a.inner().table.remove(&live, &why);
        }
        let is = matches!(a.peer_state(b.id()), PeerState::Unreachable { .. });
        assert_eq!(is, out_of_reach, "{code:?}");
        seen.changed().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_told_over_a_dead_connection_shows_that_it_is() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = two(dir.path(), &board).await;
    let service = ServiceId::new("news").unwrap();
    board.hush(a.id(), b.id(), true);
    a.tell(b.id(), &service, &7u32, SOON).await.unwrap();
    sleep(Timing::default().silent + Duration::from_secs(1)).await;
    assert!(lost(&a, &b));
}

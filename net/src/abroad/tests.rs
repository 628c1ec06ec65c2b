//! Sub-grids over the in-memory link, and strangers that do as they like.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use phantom_model::SubgridId;
use proptest::prelude::*;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::hello::{Hello, MAX_HELLO};
use super::message::{self, Kind, ROOM};
use super::meter::BURST;
use super::*;
use crate::key::{NodeKey, SubgridKey};
use crate::link::memory::{MemoryLink, Switchboard};
use crate::link::{CloseCode, Link, Protocol};
use crate::member::{Authority, Certificate, CertificateError, Delegation, Terms};
use crate::wire::{read_frame, write_frame};
use crate::{Config, MemoryStore, Network, Store};

mod bounds;
mod dials;
mod strangers;

const SOON: Duration = Duration::from_secs(20);
const NOW: u64 = 1_800_000_000;

/// A node whose parts a test can use again.
struct Made {
    network: Network,
    key: NodeKey,
    store: Arc<dyn Store>,
    clock: Arc<AtomicU64>,
    config: Config,
}

impl std::ops::Deref for Made {
    type Target = Network;

    fn deref(&self) -> &Network {
        &self.network
    }
}

async fn made(dir: &Path, link: impl FnOnce(NodeId) -> Arc<dyn Link>) -> Made {
    let (key, store) = (NodeKey::ephemeral(), Arc::new(MemoryStore::default()));
    let clock = Arc::new(AtomicU64::new(NOW));
    let ticking = clock.clone();
    let config = Config {
        clock: Arc::new(move || ticking.load(Ordering::Relaxed)),
        ..Config::new(dir.join(key.id().short()))
    };
    let link = link(key.id());
    let network = Network::with_link(config.clone(), &key, store.clone(), link).await.unwrap();
    Made { network, key, store, clock, config }
}

/// A node without a sub-grid.
async fn lone(dir: &Path, board: &Switchboard) -> Made {
    made(dir, |id| Arc::new(board.link(id))).await
}

/// A node that has founded a sub-grid, as `name`.
async fn founder(dir: &Path, board: &Switchboard, name: &str) -> Made {
    let made = lone(dir, board).await;
    made.found(name).await.unwrap();
    made
}

async fn contact(of: &Network) -> Contact {
    Contact { node: of.id(), subgrid: None, addrs: of.addrs().await }
}

fn subgrid(of: &Network) -> SubgridId {
    of.membership().unwrap().subgrid()
}

/// Answers each question with itself; what was said comes out.
fn listen(network: &Network) -> mpsc::UnboundedReceiver<(NodeId, SubgridId, Vec<u8>)> {
    let (said, heard) = mpsc::unbounded_channel();
    let network = network.clone();
    tokio::spawn(async move {
        while let Some(foreign) = network.accept_abroad().await {
            let _ = said.send((foreign.peer, foreign.subgrid, foreign.payload.clone()));
            let answer = foreign.payload.clone();
            tokio::spawn(foreign.reply(answer, SOON));
        }
    });
    heard
}

fn lines(network: &Network) -> usize {
    network.inner().abroad.pool.len()
}

async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let wait = async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

#[tokio::test(start_paused = true)]
async fn two_sub_grids_talk_both_ways_over_one_connection() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let (mut at_a, mut at_b) = (listen(&a), listen(&b));
    let to_b = Contact { subgrid: Some(subgrid(&b)), ..contact(&b).await };
    let (answer, proven) = a.ask_abroad(&to_b, b"hello".to_vec(), SOON).await.unwrap();
    assert_eq!(answer, b"hello");
    assert_eq!((proven.node, proven.subgrid, &*proven.name), (b.id(), subgrid(&b), "b"));
    assert_eq!(at_b.recv().await.unwrap(), (a.id(), subgrid(&a), b"hello".to_vec()));

    // Back over the same connection: no address is known.
    let to_a = Contact { addrs: vec![], subgrid: Some(subgrid(&a)), node: a.id() };
    for round in 0..50u8 {
        b.tell_abroad(&to_a, vec![round], SOON).await.unwrap();
        assert_eq!(at_a.recv().await.unwrap(), (b.id(), subgrid(&b), vec![round]));
        let (answer, proven) = b.ask_abroad(&to_a, vec![round; 70_000], SOON).await.unwrap();
        assert_eq!((answer.len(), &*proven.name), (70_000, "a"));
        at_a.recv().await.unwrap();
    }
    let (empty, _) = a.ask_abroad(&to_b, vec![], SOON).await.unwrap();
    assert!(empty.is_empty());
    assert_eq!((lines(&a), lines(&b)), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn another_sub_grid_than_was_meant_is_named() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let mut heard = listen(&b);
    let wanted = SubgridKey::ephemeral().id();
    let to = Contact { subgrid: Some(wanted), ..contact(&b).await };
    for _ in 0..2 {
        let error = a.tell_abroad(&to, vec![1], SOON).await.unwrap_err();
        let named = error.to_string();
        assert!(matches!(error, Error::OtherSubgrid { .. }), "{named}");
        for subgrid in [wanted, subgrid(&b)] {
            assert!(named.contains(&subgrid.short().to_string()), "{named}");
        }
    }
    assert!(heard.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn who_has_no_membership_neither_dials_nor_is_dialled() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, none) = (founder(dir.path(), &board, "a").await, lone(dir.path(), &board).await);
    let error = none.tell_abroad(&contact(&a).await, vec![], SOON).await.unwrap_err();
    assert!(matches!(error, Error::NotMember), "{error}");
    let error = a.tell_abroad(&contact(&none).await, vec![], SOON).await.unwrap_err();
    assert!(error.to_string().contains("belongs to no sub-grid"), "{error}");
    let error = a.tell_abroad(&contact(&a).await, vec![], SOON).await.unwrap_err();
    assert!(matches!(error, Error::OwnContact), "{error}");
    let nowhere = Contact { addrs: vec![], ..contact(&none).await };
    let error = a.tell_abroad(&nowhere, vec![], SOON).await.unwrap_err();
    assert!(error.to_string().contains("no address"), "{error}");
    assert_eq!((lines(&a), lines(&none)), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_and_made_again_when_needed() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let _heard = (listen(&a), listen(&b));
    let (to_a, to_b) = (contact(&a).await, contact(&b).await);
    a.ask_abroad(&to_b, vec![1], SOON).await.unwrap();
    // Used again and again it lives on.
    for _ in 0..10 {
        sleep(Duration::from_secs(40)).await;
        b.ask_abroad(&to_a, vec![2], SOON).await.unwrap();
        assert_eq!((lines(&a), lines(&b)), (1, 1));
    }
    // Shortly before its dialler closes it the other side uses it no more.
    sleep(Duration::from_secs(55)).await;
    b.ask_abroad(&to_a, vec![3], SOON).await.unwrap();
    assert_eq!((lines(&a), lines(&b)), (2, 2));
    sleep(Duration::from_secs(12)).await;
    assert_eq!((lines(&a), lines(&b)), (1, 1));
    sleep(Duration::from_secs(60)).await;
    assert_eq!((lines(&a), lines(&b)), (0, 0));
    a.ask_abroad(&to_b, vec![4], SOON).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_an_open_question_is_not_idle() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let to_b = contact(&b).await;
    let slow = async {
        let foreign = b.accept_abroad().await.unwrap();
        assert!(foreign.asks());
        sleep(Duration::from_secs(300)).await;
        foreign.reply(vec![9], SOON).await.unwrap();
    };
    let ((), answer) = tokio::join!(slow, a.ask_abroad(&to_b, vec![1], SOON * 30));
    assert_eq!(answer.unwrap().0, [9]);
    // Who is not answered hears so when the question is dropped.
    let drops = async { drop(b.accept_abroad().await) };
    let ((), answer) = tokio::join!(drops, a.ask_abroad(&to_b, vec![1], SOON));
    assert!(matches!(answer, Err(Error::Cut { .. })), "{answer:?}");
}

#[tokio::test(start_paused = true)]
async fn both_may_dial_at_once() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let _heard = (listen(&a), listen(&b));
    let (to_a, to_b) = (contact(&a).await, contact(&b).await);
    for round in 0..20u8 {
        let (there, back) = tokio::join!(
            a.ask_abroad(&to_b, vec![round], SOON),
            b.ask_abroad(&to_a, vec![round], SOON),
        );
        assert_eq!((there.unwrap().0, back.unwrap().0), (vec![round], vec![round]));
        assert!(lines(&a) <= 2 && lines(&b) <= 2);
        if round % 4 == 3 {
            sleep(Duration::from_secs(90)).await;
            assert_eq!((lines(&a), lines(&b)), (0, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_parts_from_other_sub_grids_too() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let c = founder(dir.path(), &board, "c").await;
    let mut heard = listen(&b);
    a.ask_abroad(&contact(&b).await, vec![1], SOON).await.unwrap();
    heard.recv().await.unwrap();
    a.leave().await.unwrap();
    eventually("both close it", || lines(&a) + lines(&b) == 0).await;
    let error = a.tell_abroad(&contact(&b).await, vec![2], SOON).await.unwrap_err();
    assert!(matches!(error, Error::NotMember), "{error}");

    // As a member of another sub-grid it shows that one's certificate.
    a.join(&c.invite(SOON).await.unwrap(), "guest").await.unwrap();
    a.ask_abroad(&contact(&b).await, vec![3], SOON).await.unwrap();
    assert_eq!(heard.recv().await.unwrap(), (a.id(), subgrid(&c), vec![3]));
    c.remove(a.id()).await.unwrap();
    eventually("it hears that it was put out", || lines(&a) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_of_ones_own_sub_grid_counts_until_it_is_put_out() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, lone(dir.path(), &board).await);
    b.join(&a.invite(SOON).await.unwrap(), "b").await.unwrap();
    let certificate = b.membership().unwrap().certificate;
    let mut heard = listen(&a);
    b.ask_abroad(&contact(&a).await, vec![1], SOON).await.unwrap();
    assert_eq!(heard.recv().await.unwrap().1, subgrid(&a));
    a.remove(b.id()).await.unwrap();
    eventually("it is parted from", || lines(&a) == 0).await;
    b.shutdown(SOON).await;

    // It comes back with what it had.
    let link = board.link(b.id());
    let stranger = strangers::Stranger { link, certificate };
    let refused = stranger.dial(&a).await.map(drop).unwrap_err();
    assert!(refused.contains("was removed"), "{refused}");
    assert!(heard.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_certificate_that_is_over_ends_the_connection() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let _heard = listen(&b);
    a.ask_abroad(&contact(&b).await, vec![1], SOON).await.unwrap();
    // By its own clock the other's is good for a year.
    a.clock.fetch_add(crate::member::VALIDITY_S + 1, Ordering::Relaxed);
    eventually("it is closed", || lines(&a) + lines(&b) == 0).await;
    a.network.inner().book.renew().await.unwrap();
    let error = a.tell_abroad(&contact(&b).await, vec![2], SOON).await.unwrap_err();
    let expired = matches!(error, Error::Certificate(CertificateError::Expired { .. }));
    assert!(expired || error.to_string().contains("holds only from"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_node_that_has_restarted_is_found_again() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let _heard = listen(&b);
    let to_b = contact(&b).await;
    a.ask_abroad(&to_b, vec![1], SOON).await.unwrap();
    for round in 0..5u8 {
        b.shutdown(SOON).await;
        let gone = a.ask_abroad(&to_b, vec![1], Duration::from_secs(3)).await.unwrap_err();
        assert!(matches!(gone, Error::Unreachable { .. } | Error::Cut { .. }), "{gone}");
        let link = Arc::new(board.link(b.id()));
        let again =
            Network::with_link(b.config.clone(), &b.key, b.store.clone(), link).await.unwrap();
        let mut heard = listen(&again);
        a.tell_abroad(&to_b, vec![round], SOON).await.unwrap();
        assert_eq!(heard.recv().await.unwrap().2, [round]);
        // Of one that was killed nobody says that it is gone.
        let (a_id, b_id) = (a.id(), b.id());
        board.cut(a_id, b_id);
        eventually("cut", || lines(&a) == 0).await;
        board.mend(a_id, b_id);
        assert_eq!(a.ask_abroad(&to_b, vec![9], SOON).await.unwrap().0, [9]);
        again.shutdown(SOON).await;
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_left_after_shutdown() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b) = (founder(dir.path(), &board, "a").await, founder(dir.path(), &board, "b").await);
    let to_b = contact(&b).await;
    // Some wait to be taken, one is taken and not answered, one is waited for by its asker.
    for _ in 0..20 {
        a.tell_abroad(&to_b, vec![7; 60_000], SOON).await.unwrap();
    }
    let asking = a.network.clone();
    let to = to_b.clone();
    let asked = tokio::spawn(async move { asking.ask_abroad(&to, vec![1], SOON).await });
    let held = b.accept_abroad().await.unwrap();
    let waiting = b.network.clone();
    let inner = Arc::downgrade(b.shared());
    let room = b.inner().abroad.room.clone();
    assert!(room.available_permits() < ROOM);
    b.shutdown(SOON).await;
    assert!(waiting.accept_abroad().await.is_none());
    assert!(asked.await.unwrap().is_err());
    assert_eq!(room.available_permits(), ROOM - held.payload.len(), "nobody takes what waits");
    assert_eq!(lines(&b), 0);
    assert!(b.inner().tasks.is_empty());
    let error = b.tell_abroad(&contact(&a).await, vec![], SOON).await.unwrap_err();
    assert!(matches!(error, Error::ShutDown), "{error}");
    eventually("the other hears it", || lines(&a) == 0).await;
    drop((held, waiting, b));
    assert_eq!(room.available_permits(), ROOM);
    eventually("nobody holds the node any more", || inner.strong_count() == 0).await;
    assert!(a.tell_abroad(&to_b, vec![], Duration::from_secs(3)).await.is_err());
}

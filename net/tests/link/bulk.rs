//! Bulk transfers, over TCP and over the node connection.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{Clock, SOON, config, start_with, two};
use async_trait::async_trait;
use bytes::Bytes;
use phantom_net::{
    BulkError, BulkOptions, BulkPath, BulkTicket, Config, Error, Extent, ExtentSink, Network,
};

const SIZE: usize = 24 << 20;

fn pattern(size: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..size / 8).flat_map(|_| next()).collect()
}

struct Memory(Mutex<Vec<u8>>);

#[async_trait]
impl ExtentSink for Memory {
    async fn write(&self, object: u32, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut memory = self.0.lock().unwrap();
        let at = offset as usize + object as usize * (SIZE / 2);
        let place = memory.get_mut(at..at + bytes.len());
        place.ok_or_else(|| io::Error::other("no room"))?.copy_from_slice(bytes);
        Ok(())
    }
}

async fn send_all(sender: &mut phantom_net::BulkSender, data: &Bytes) -> Result<(), BulkError> {
    let half = SIZE / 2;
    for (object, range) in [(0, 0..half), (1, half..SIZE)] {
        let bytes = data.slice(range);
        for at in (0..half).step_by(1 << 20) {
            let piece = bytes.slice(at..at + (1 << 20));
            sender.send(Extent { object, offset: at as u64, bytes: piece }).await?;
        }
    }
    Ok(())
}

async fn transfers(a: &Network, b: &Network, tcp: bool) {
    let data = pattern(SIZE);
    let memory = Arc::new(Memory(Mutex::new(vec![0; SIZE])));
    let options = BulkOptions { stall: Duration::from_secs(5), ..BulkOptions::default() };
    let mut receiver = b.bulk_receive_into(a.id(), options, memory.clone());
    let mut sender = a.bulk_send(b.id(), receiver.ticket(), options).await.unwrap();
    assert_eq!(matches!(sender.path(), BulkPath::Tcp(_)), tcp, "{}", sender.path());
    send_all(&mut sender, &data).await.unwrap();
    let sent = sender.finish().await.unwrap();
    let received = receiver.finished().await.unwrap();
    println!("{sent}");
    assert_eq!((sent.bytes, received.bytes), (SIZE as u64, SIZE as u64));
    assert!(*memory.0.lock().unwrap() == data, "bytes differ");
    assert_eq!(a.peers()[0].bulk_out, SIZE as u64);
    assert_eq!(b.peers()[0].bulk_in, SIZE as u64);

    // The same through a channel.
    let mut receiver = b.bulk_receive(a.id(), options);
    let mut sender = a.bulk_send(b.id(), receiver.ticket(), options).await.unwrap();
    let sending = tokio::spawn(async move {
        send_all(&mut sender, &data).await?;
        sender.finish().await
    });
    let mut sum = 0;
    while let Some(extent) = receiver.next().await.unwrap() {
        sum += extent.bytes.len();
    }
    assert_eq!(sum, SIZE);
    sending.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_over_tcp() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    transfers(&a, &b, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bulk_over_the_node_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = without_tcp(dir.path()).await;
    transfers(&a, &b, false).await;
}

async fn without_tcp(dir: &std::path::Path) -> (Network, Network) {
    let clock = Clock::new();
    let plain = |name: &str| Config { bulk_tcp: false, ..config(&dir.join(name), &clock) };
    let (a, b) = (start_with(plain("a")).await, start_with(plain("b")).await);
    a.found("a").await.unwrap();
    let token = a.invite(SOON).await.unwrap();
    b.join(&token, "b").await.unwrap();
    (a, b)
}

fn unknown(outcome: Result<phantom_net::BulkSender, Error>) -> bool {
    matches!(outcome, Err(Error::Bulk(BulkError::Unknown(_) | BulkError::Broken { .. })))
}

#[tokio::test]
async fn only_the_announced_node_with_the_announced_ticket_may_send() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::new());
    let (a, b) = two(dir.path(), &clock).await;
    let options = BulkOptions::default();
    let guess = BulkTicket([7; 16]);
    assert!(unknown(a.bulk_send(b.id(), guess, options).await), "nothing is expected");
    // A transfer from somebody else is expected.
    let other = b.bulk_receive(phantom_net::NodeKey::ephemeral().id(), options);
    assert!(unknown(a.bulk_send(b.id(), other.ticket(), options).await));
    assert!(unknown(a.bulk_send(b.id(), guess, options).await));
    // One that was given up.
    let receiver = b.bulk_receive(a.id(), options);
    let ticket = receiver.ticket();
    drop(receiver);
    assert!(unknown(a.bulk_send(b.id(), ticket, options).await));
}

#[tokio::test]
async fn giving_up_on_either_side_is_an_error_on_the_other() {
    let dir = tempfile::tempdir().unwrap();
    for (number, tcp) in [true, false].into_iter().enumerate() {
        let dir = dir.path().join(number.to_string());
        let (a, b) = if tcp { two(&dir, &Clock::new()).await } else { without_tcp(&dir).await };
        let options = BulkOptions { stall: Duration::from_secs(3), ..BulkOptions::default() };
        let extent = |size| Extent { object: 0, offset: 0, bytes: Bytes::from(vec![1; size]) };

        let mut receiver = b.bulk_receive(a.id(), options);
        let mut sender = a.bulk_send(b.id(), receiver.ticket(), options).await.unwrap();
        sender.send(extent(100)).await.unwrap();
        assert_eq!(receiver.next().await.unwrap().unwrap().bytes.len(), 100);
        drop(sender);
        let started = Instant::now();
        assert!(matches!(receiver.next().await, Err(BulkError::Broken { .. })));
        assert!(started.elapsed() < Duration::from_secs(2), "at once, not by time-out");

        let receiver = b.bulk_receive(a.id(), options);
        let mut sender = a.bulk_send(b.id(), receiver.ticket(), options).await.unwrap();
        drop(receiver);
        let failed = loop {
            if let Err(error) = sender.send(extent(1 << 20)).await {
                break error;
            }
        };
        assert!(matches!(failed, BulkError::Broken { .. }), "{failed}");
    }
}

#[tokio::test]
async fn a_sender_with_nothing_to_say_is_alive_and_a_silent_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (a, b) = two(dir.path(), &Clock::new()).await;
    let options = BulkOptions { stall: Duration::from_millis(600), ..BulkOptions::default() };
    let mut receiver = b.bulk_receive(a.id(), options);
    let sender = a.bulk_send(b.id(), receiver.ticket(), options).await.unwrap();
    let waiting = tokio::time::timeout(Duration::from_millis(1500), receiver.next()).await;
    assert!(waiting.is_err(), "still waiting: {waiting:?}");
    sender.finish().await.unwrap();
    assert_eq!(receiver.next().await, Ok(None));

    // Nobody ever comes.
    let mut receiver = b.bulk_receive(a.id(), options);
    assert!(matches!(receiver.next().await, Err(BulkError::Stalled { .. })));

    // More than was agreed.
    let bounded = BulkOptions { limit: 1000, ..options };
    let mut receiver = b.bulk_receive(a.id(), bounded);
    let mut sender = a.bulk_send(b.id(), receiver.ticket(), bounded).await.unwrap();
    let bytes = Bytes::from(vec![0; 1001]);
    sender.send(Extent { object: 0, offset: 0, bytes }).await.unwrap();
    assert!(matches!(receiver.next().await, Err(BulkError::TooMuch { limit: 1000, .. })));
    assert!(sender.finish().await.is_err());
}

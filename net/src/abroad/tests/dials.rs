//! How nodes of other sub-grids are dialled.

use std::sync::atomic::{AtomicBool, AtomicUsize};

use async_trait::async_trait;

use super::*;
use crate::link::LinkStats;

/// Counts how many dials there were, and how many at once; some of what it dials is brittle.
struct Watched {
    link: MemoryLink,
    counts: Counts,
}

#[derive(Clone, Default)]
struct Counts {
    dials: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    /// How many of the next connections end when a second stream is opened on them.
    brittle: Arc<AtomicUsize>,
}

#[async_trait]
impl Link for Watched {
    fn id(&self) -> NodeId {
        self.link.id()
    }

    async fn addrs(&self) -> Vec<PeerAddr> {
        self.link.addrs().await
    }

    async fn dial(
        &self,
        peer: NodeId,
        addrs: &[PeerAddr],
        protocol: Protocol,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        let Counts { dials, at_once, most, brittle } = &self.counts;
        dials.fetch_add(1, Ordering::Relaxed);
        most.fetch_max(1 + at_once.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        sleep(Duration::from_millis(500)).await;
        let dialled = self.link.dial(peer, addrs, protocol).await;
        at_once.fetch_sub(1, Ordering::Relaxed);
        let less = |left: usize| left.checked_sub(1);
        match brittle.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less) {
            Ok(_) => Ok(Arc::new(Brittle { whole: dialled?, used: AtomicBool::new(false) })),
            Err(_) => dialled,
        }
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.link.accept().await
    }

    async fn close(&self) {
        self.link.close().await;
    }
}

/// Ends when a second stream is opened.
struct Brittle {
    whole: Arc<dyn Connection>,
    used: AtomicBool,
}

#[async_trait]
impl Connection for Brittle {
    fn peer(&self) -> NodeId {
        self.whole.peer()
    }

    fn protocol(&self) -> Protocol {
        self.whole.protocol()
    }

    fn dialled(&self) -> bool {
        true
    }

    async fn open(&self) -> Result<Stream, LinkError> {
        if self.used.swap(true, Ordering::Relaxed) {
            self.whole.close(CloseCode::Done, "brittle");
        }
        self.whole.open().await
    }

    async fn accept(&self) -> Result<Stream, LinkError> {
        self.whole.accept().await
    }

    fn allow(&self, streams: u32) {
        self.whole.allow(streams);
    }

    fn pulse(&self) {
        self.whole.pulse();
    }

    fn heard(&self) -> u64 {
        self.whole.heard()
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.whole.close(code, reason);
    }

    async fn closed(&self) -> LinkError {
        self.whole.closed().await
    }

    fn is_closed(&self) -> bool {
        self.whole.is_closed()
    }

    fn stats(&self) -> LinkStats {
        self.whole.stats()
    }
}

/// A founder whose dials are watched, and another.
async fn watched(dir: &Path, board: &Switchboard) -> (Made, Made, Counts) {
    let counts = Counts::default();
    let watched = counts.clone();
    let link = |id| Arc::new(Watched { link: board.link(id), counts: watched }) as Arc<dyn Link>;
    let a = made(dir, link).await;
    a.found("a").await.unwrap();
    (a, founder(dir, board, "b").await, counts)
}

#[tokio::test(start_paused = true)]
async fn a_node_is_dialled_by_one_at_a_time_and_with_pauses() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b, Counts { dials, most, .. }) = watched(dir.path(), &board).await;
    let mut heard = listen(&b);
    board.cut(a.id(), b.id());
    let to_b = contact(&b).await;
    let ask = |within| {
        let (a, to_b) = (a.network.clone(), to_b.clone());
        tokio::spawn(async move { a.ask_abroad(&to_b, vec![1], within).await })
    };
    let within = Duration::from_secs(30);
    let asking: Vec<_> = (0..50).map(|_| ask(within)).collect();
    for asked in asking {
        let error = asked.await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    }
    // Half a second each, and a pause of up to one.
    let dialled = dials.load(Ordering::Relaxed);
    assert!((15..=40).contains(&dialled), "{dialled}");

    // Those who wait while the line is mended get through over one connection.
    let asking: Vec<_> = (0..50).map(|_| ask(within)).collect();
    sleep(Duration::from_secs(3)).await;
    board.mend(a.id(), b.id());
    for asked in asking {
        assert_eq!(asked.await.unwrap().unwrap().0, [1]);
    }
    assert_eq!((lines(&a), lines(&b), most.load(Ordering::Relaxed)), (1, 1, 1));
    assert_eq!(heard.recv().await.unwrap().0, a.id());
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_found_dead_is_replaced_once() {
    let (dir, board) = (tempfile::tempdir().unwrap(), Switchboard::default());
    let (a, b, Counts { dials, brittle, .. }) = watched(dir.path(), &board).await;
    let _heard = listen(&b);
    let to_b = contact(&b).await;
    brittle.store(1, Ordering::Relaxed);
    assert_eq!(a.ask_abroad(&to_b, vec![1], SOON).await.unwrap().0, [1]);
    assert_eq!(dials.load(Ordering::Relaxed), 2);
    sleep(Duration::from_secs(90)).await;
    assert_eq!((lines(&a), lines(&b)), (0, 0), "idle");
    brittle.store(5, Ordering::Relaxed);
    let error = a.tell_abroad(&to_b, vec![2], SOON).await.unwrap_err();
    assert!(matches!(error, Error::Cut { .. }), "{error}");
    assert_eq!(brittle.load(Ordering::Relaxed), 3);
}

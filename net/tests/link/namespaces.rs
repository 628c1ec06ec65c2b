//! Nodes in network namespaces of their own: cut links, and whom a node talks to.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use phantom_net::{BulkError, BulkOptions, Error, Extent, Network, PeerAddr, PeerState, ServiceId};
use tokio::sync::mpsc;

use crate::common::{SOON, echo, start_with, until};
use crate::netns::{Namespace, Talk, everyday, founder, talk};

/// Two namespaces with a cable between them.
struct Cable {
    ends: [Namespace; 2],
}

impl Cable {
    /// `None`, and says so, where namespaces cannot be made.
    fn lay(test: &str) -> Option<Self> {
        let ends = [Namespace::make(test, "a")?, Namespace::make(test, "b")?];
        ends[0].wire(&ends[1], "cable", ["10.213.10.1/24", "10.213.10.2/24"]);
        Some(Self { ends })
    }

    fn set(&self, state: &str) {
        self.ends[1].ip(&format!("link set cable {state}"));
    }

    fn inside<T: Send + 'static, F: Future<Output = T>>(
        &self,
        end: usize,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        self.ends[end].inside(work)
    }
}

async fn joined(
    dir: &Path,
    talk: &mut Talk<(), phantom_net::Token>,
) -> (Network, phantom_model::NodeId) {
    let network = start_with(everyday(&dir.join("a"))).await;
    let token = talk.from.recv().await.unwrap();
    network.join(&token, "a").await.unwrap();
    network.connect(token.inviter, SOON).await.unwrap();
    (network, token.inviter)
}

#[test]
fn a_pulled_cable_is_noticed_and_mended_without_ceremony() {
    let Some(cable) = Cable::lay("cut") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = talk();
    let path = dir.path().to_owned();
    let founder = cable.inside(1, move || founder(everyday(&path.join("b")), far));
    let path = dir.path().to_owned();
    let (cut, mut cuts) = mpsc::unbounded_channel::<&'static str>();
    let (done, did) = std::sync::mpsc::channel();
    let work = cable.inside(0, move || async move {
        let mut near = near;
        let (network, peer) = joined(&path, &mut near).await;
        let network_ref = &network;
        let call = |request: u8| async move {
            network_ref.call::<_, u8>(peer, &ServiceId::CONTROL, &request, SOON).await
        };
        assert_eq!(call(1).await.unwrap(), 1);

        // A short break is ridden out by the connection itself.
        pull(&cut, &did, "down");
        let waiting = call(2);
        let mend = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            pull(&cut, &did, "up");
        };
        let (answer, ()) = tokio::join!(waiting, mend);
        assert_eq!(answer.unwrap(), 2);

        // A long one is noticed in time and the connection made anew.
        pull(&cut, &did, "down");
        let started = Instant::now();
        let lost = || {
            matches!(
                network.peer_state(peer),
                PeerState::Unreachable { .. } | PeerState::Connecting
            )
        };
        // Nobody uses it: whoever watches the members says so.
        network.doubt(peer);
        until(&network, "the loss is noticed", lost).await;
        let noticed = started.elapsed();
        assert!(noticed < Duration::from_secs(5), "{noticed:?}");
        pull(&cut, &did, "up");
        let started = Instant::now();
        assert_eq!(call(3).await.unwrap(), 3);
        println!(
            "a dead link noticed after {noticed:?}, usable {:?} after its return",
            started.elapsed()
        );

        // In the middle of a bulk transfer.
        let options = BulkOptions { stall: Duration::from_secs(2), ..BulkOptions::default() };
        let ticket = network.call(peer, &ServiceId::FILES, &(), SOON).await.unwrap();
        let mut sender = network.bulk_send(peer, ticket, options).await.unwrap();
        let extent = || Extent { object: 0, offset: 0, bytes: Bytes::from(vec![5; 1 << 20]) };
        sender.send(extent()).await.unwrap();
        pull(&cut, &did, "down");
        let started = Instant::now();
        let error = loop {
            if let Err(error) = sender.send(extent()).await {
                break error;
            }
        };
        assert!(matches!(error, BulkError::Stalled { .. }), "{error}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        pull(&cut, &did, "up");
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    while let Some(state) = cuts.blocking_recv() {
        cable.set(state);
        done.send(()).unwrap();
    }
    work.join().unwrap();
    founder.join().unwrap();
}

/// Where `network` believes its one peer to be reachable at a loopback address.
fn loopbacks(network: &Network) -> Vec<PeerAddr> {
    let is_loopback = |addr: &PeerAddr| matches!(addr, PeerAddr::Ip(ip) if ip.ip().is_loopback());
    network.peers().into_iter().flat_map(|peer| peer.addrs).filter(is_loopback).collect()
}

#[test]
fn a_node_without_a_network_announces_no_address_that_is_everybodys() {
    let Some(cable) = Cable::lay("alone") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = talk();
    let path = dir.path().to_owned();
    let founder = cable.inside(1, move || founder(everyday(&path.join("b")), far));
    let path = dir.path().to_owned();
    let (cut, mut cuts) = mpsc::unbounded_channel::<&'static str>();
    let (done, did) = std::sync::mpsc::channel();
    let work = cable.inside(0, move || async move {
        let mut near = near;
        let (network, peer) = joined(&path, &mut near).await;
        pull(&cut, &did, "down");
        let lost = || matches!(network.peer_state(peer), PeerState::Unreachable { .. });
        network.doubt(peer);
        until(&network, "the loss is noticed", lost).await;
        // Both have nothing but loopback now, and take it for all they have a moment longer than
        // the outage lasts.
        pull(&cut, &did, "up");
        let answer: u8 = network.call(peer, &ServiceId::CONTROL, &5u8, SOON).await.unwrap();
        assert_eq!(answer, 5);
        assert_eq!(loopbacks(&network), []);
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    while let Some(state) = cuts.blocking_recv() {
        cable.set(state);
        done.send(()).unwrap();
    }
    work.join().unwrap();
    founder.join().unwrap();

    // Without a network from the start there is nothing to invite to.
    let path = dir.path().join("c");
    // Its own end, which is down at once; that the other is, the kernel tells a moment later.
    cable.ends[0].ip("link set cable down");
    let alone = cable.inside(0, move || async move {
        let network = start_with(everyday(&path)).await;
        network.found("c").await.unwrap();
        assert_eq!(network.addrs().await, []);
        assert!(matches!(network.invite(SOON).await, Err(Error::NoOwnAddress)));
        network.shutdown(SOON).await;
    });
    alone.join().unwrap();
}

#[test]
fn a_dial_is_not_led_back_to_where_it_began() {
    let Some(cable) = Cable::lay("self") else { return };
    let dir = tempfile::tempdir().unwrap();
    let (mut near, far) = talk();
    let path = dir.path().to_owned();
    let founder = cable.inside(1, move || founder(everyday(&path.join("b")), far));
    let path = dir.path().join("a");
    let (cut, mut cuts) = mpsc::unbounded_channel::<&'static str>();
    let (done, did) = std::sync::mpsc::channel();
    let work = cable.inside(0, move || async move {
        let network = start_with(everyday(&path)).await;
        let mut token: phantom_net::Token = near.from.recv().await.unwrap();
        // A node listens there as well: this one.
        for loopback in ["127.0.0.1:41610", "[::1]:41610", "127.8.8.8:41610"] {
            token.addrs.insert(0, PeerAddr::Ip(loopback.parse().unwrap()));
        }
        pull(&cut, &did, "down");
        // Whoever answers first is not the one.
        let (joined, ()) = tokio::join!(network.join(&token, "a"), async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            pull(&cut, &did, "up");
        });
        joined.unwrap();
        network.connect(token.inviter, SOON).await.unwrap();
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    while let Some(state) = cuts.blocking_recv() {
        cable.set(state);
        done.send(()).unwrap();
    }
    work.join().unwrap();
    founder.join().unwrap();
}

/// Has the cable pulled or plugged in, and waits until it is.
fn pull(
    cut: &mpsc::UnboundedSender<&'static str>,
    did: &std::sync::mpsc::Receiver<()>,
    state: &'static str,
) {
    cut.send(state).unwrap();
    did.recv().unwrap();
}

/// Packets that came to this namespace for somebody else.
fn misdirected() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let mut fields = names.split(' ').zip(values.split(' '));
    fields.find(|(name, _)| *name == "InAddrErrors").unwrap().1.parse().unwrap()
}

#[test]
fn a_node_contacts_nobody_but_its_peers() {
    let Some(cable) = Cable::lay("quiet") else { return };
    // Whatever the node sends to the wide world ends up at, and is counted by, the other end.
    cable.ends[0].ip("route add default via 10.213.10.2");
    let dir = tempfile::tempdir().unwrap();
    let (near, far) = talk();
    let path = dir.path().to_owned();
    let founder = cable.inside(1, move || async move {
        founder(everyday(&path.join("b")), far).await;
        misdirected()
    });
    let path = dir.path().to_owned();
    let work = cable.inside(0, move || async move {
        let mut near = near;
        let (network, peer) = joined(&path, &mut near).await;
        echo(&network);
        // Addresses change, a peer is unknown, dials fail: the moments to ask a server.
        network.network_changed().await;
        let stranger = phantom_net::NodeKey::ephemeral().id();
        assert!(matches!(network.connect(stranger, SOON).await, Err(Error::UnknownPeer(_))));
        tokio::time::sleep(Duration::from_secs(4)).await;
        let answer: u8 = network.call(peer, &ServiceId::CONTROL, &9u8, SOON).await.unwrap();
        assert_eq!(answer, 9);
        network.shutdown(SOON).await;
        near.to.send(()).unwrap();
    });
    work.join().unwrap();
    let to_others = founder.join().unwrap();
    assert_eq!(to_others, 0, "packets for outside servers");

    // The count does count.
    let probe = cable.inside(0, || async {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"?", "192.0.2.1:53").unwrap();
    });
    probe.join().unwrap();
    let counted = cable.inside(1, || async {
        let started = Instant::now();
        while misdirected() == 0 && started.elapsed() < SOON {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        misdirected()
    });
    assert_eq!(counted.join().unwrap(), 1);
}

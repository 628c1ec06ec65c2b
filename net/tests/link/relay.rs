//! A relay of one's own: two nodes that cannot reach each other, and nobody else in the world.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use iroh_relay::server::{CertConfig, RelayConfig, Server, ServerConfig, TlsConfig};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, socket};
use phantom_net::config::DEFAULT_PORT;
use phantom_net::link::quic::QuicLink;
use phantom_net::{
    BulkOptions, BulkPath, Config, Error, Extent, Network, NodeKey, PeerAddr, PeerState, ServiceId,
    Token,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use tokio::sync::{mpsc, oneshot};

use crate::common::{SOON, start_with, until};
use crate::netns::{Namespace, everyday, founder, talk};

const RELAY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 213, 11, 1)), 3340);
const ADA: Ipv4Addr = Ipv4Addr::new(10, 213, 11, 2);
const BOB: Ipv4Addr = Ipv4Addr::new(10, 213, 12, 2);

/// Two nodes' places, and between them a machine that passes nothing on: whatever either sends
/// into the wide world ends there.
struct World {
    ada: Namespace,
    bob: Namespace,
    hub: Namespace,
}

impl World {
    fn make(test: &str) -> Option<Self> {
        let make = |name| Namespace::make(test, name);
        let this = Self { ada: make("ada")?, bob: make("bob")?, hub: make("hub")? };
        this.hub.wire(&this.ada, "left", ["10.213.11.1/24", "10.213.11.2/24"]);
        this.hub.wire(&this.bob, "right", ["10.213.12.1/24", "10.213.12.2/24"]);
        this.ada.ip("route add default via 10.213.11.1");
        this.bob.ip("route add default via 10.213.12.1");
        this.pass_on("0");
        Some(this)
    }

    /// Whether the machine in between passes packets on.
    fn pass_on(&self, on: &'static str) {
        let set = self.hub.inside(move || async move {
            std::fs::write("/proc/sys/net/ipv4/ip_forward", on).unwrap();
        });
        set.join().unwrap();
    }

    /// Starts the relay.
    fn relay(&self, config: impl FnOnce() -> RelayConfig + Send + 'static) -> Relay {
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = self.hub.inside(move || async move {
            let mut all = ServerConfig::default();
            all.relay = Some(config());
            let server = Server::spawn(all).await.unwrap();
            ready.send(()).unwrap();
            let _ = stopped.await;
            server.shutdown().await.unwrap();
        });
        is_ready.recv().unwrap();
        Relay { stop, thread }
    }

    /// Notes to whom the two nodes send anything, until the flag is set.
    fn watch(&self, over: Arc<AtomicBool>) -> JoinHandle<BTreeSet<Ipv4Addr>> {
        self.hub.inside(move || async move {
            let all = SockProtocol::EthAll;
            let packets = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all);
            let packets = packets.unwrap();
            let (mut packet, mut seen) = ([0; 2048], BTreeSet::new());
            while !over.load(Ordering::Relaxed) {
                let mut ready =
                    [PollFd::new(std::os::fd::AsFd::as_fd(&packets), PollFlags::POLLIN)];
                if poll(&mut ready, PollTimeout::from(100u8)).unwrap() == 0 {
                    continue;
                }
                let len = recv(packets.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
                // Ethernet, then IPv4.
                let [.., 8, 0] = packet[..14] else { continue };
                let address = |at: usize| {
                    <[u8; 4]>::try_from(&packet[..len][at..at + 4]).map(Ipv4Addr::from).unwrap()
                };
                let (from, to) = (address(26), address(30));
                if [ADA, BOB].contains(&from) && !to.is_multicast() {
                    seen.insert(to);
                }
            }
            seen
        })
    }
}

struct Relay {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Relay {
    fn stop(self) {
        self.stop.send(()).unwrap();
        self.thread.join().unwrap();
    }
}

fn plain() -> RelayConfig {
    RelayConfig::new(SocketAddr::from(([0, 0, 0, 0], RELAY.port())))
}

fn url() -> String {
    format!("http://{RELAY}/")
}

fn relayed(dir: PathBuf) -> Config {
    Config { relay: Some(url()), ..everyday(&dir) }
}

/// Sends `mib` MiB and gives the way they took.
async fn send_bulk(network: &Network, peer: phantom_model::NodeId, mib: usize) -> BulkPath {
    let ticket = network.call(peer, &ServiceId::FILES, &(), SOON).await.unwrap();
    let mut sender = network.bulk_send(peer, ticket, BulkOptions::default()).await.unwrap();
    for piece in 0..mib as u64 {
        let bytes = Bytes::from(vec![piece as u8; 1 << 20]);
        sender.send(Extent { object: 0, offset: piece << 20, bytes }).await.unwrap();
    }
    let report = sender.finish().await.unwrap();
    assert_eq!(report.bytes, (mib as u64) << 20);
    report.path
}

#[test]
fn two_nodes_meet_over_their_own_relay_and_nobody_else_is_contacted() {
    let Some(world) = World::make("relay") else { return };
    let over = Arc::new(AtomicBool::new(false));
    let watch = world.watch(over.clone());
    let mut relay = Some(world.relay(plain));
    let dir = tempfile::tempdir().unwrap();
    let (mut near, far) = talk();
    let config = relayed(dir.path().join("b"));
    let founder = world.bob.inside(move || founder(config, far));
    let path = dir.path().to_owned();
    let (switch, mut switches) = mpsc::unbounded_channel::<bool>();
    let (done, did) = std::sync::mpsc::channel();
    let work = world.ada.inside(move || async move {
        let token: Token = near.from.recv().await.unwrap();
        assert!(token.addrs.contains(&PeerAddr::Relay(url())), "{:?}", token.addrs);

        // Told how to, not left to guess.
        let listen = SocketAddr::from(([0, 0, 0, 0], 0));
        let bare = start_with(Config { listen, ..everyday(&path.join("bare")) }).await;
        let error = bare.join(&token, "a").await.unwrap_err().to_string();
        assert!(error.contains(&format!("relay_url = \"{}\"", url())), "{error}");
        bare.shutdown(SOON).await;

        let network = start_with(relayed(path.join("a"))).await;
        network.join(&token, "a").await.unwrap();
        network.connect(token.inviter, SOON).await.unwrap();
        let call = async |request: u8| {
            network.call::<_, u8>(token.inviter, &ServiceId::CONTROL, &request, SOON).await
        };
        assert_eq!(call(1).await.unwrap(), 1);
        assert_eq!(network.peers()[0].path, Some(PeerAddr::Relay(url())));
        assert_eq!(send_bulk(&network, token.inviter, 8).await, BulkPath::NodeConnection);

        // The relay is restarted.
        switch.send(false).unwrap();
        did.recv().unwrap();
        let lost = || matches!(network.peer_state(token.inviter), PeerState::Unreachable { .. });
        // As whoever watches the members does.
        network.doubt(token.inviter);
        until(&network, "the loss is noticed", lost).await;
        switch.send(true).unwrap();
        did.recv().unwrap();
        assert_eq!(call(2).await.unwrap(), 2);
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    while let Some(up) = switches.blocking_recv() {
        match relay.take() {
            Some(running) if !up => running.stop(),
            other => relay = other.or_else(|| Some(world.relay(plain))),
        }
        done.send(()).unwrap();
    }
    work.join().unwrap();
    founder.join().unwrap();
    relay.unwrap().stop();
    over.store(true, Ordering::Relaxed);
    let seen = watch.join().unwrap();
    // The relay, and each other's addresses, where nothing arrives.
    let allowed = [Ipv4Addr::new(10, 213, 11, 1), Ipv4Addr::new(10, 213, 12, 1), ADA, BOB];
    assert!(seen.contains(&allowed[0]), "the watch does see: {seen:?}");
    let others: Vec<_> = seen.iter().filter(|addr| !allowed.contains(addr)).collect();
    assert!(others.is_empty(), "contacted: {others:?}");
}

#[test]
fn a_direct_way_is_taken_as_soon_as_there_is_one() {
    let Some(world) = World::make("direct") else { return };
    let relay = world.relay(plain);
    let dir = tempfile::tempdir().unwrap();
    let (mut near, far) = talk();
    let config = relayed(dir.path().join("b"));
    let founder = world.bob.inside(move || founder(config, far));
    let path = dir.path().join("a");
    let (open, mut opened) = mpsc::unbounded_channel::<()>();
    let work = world.ada.inside(move || async move {
        let token: Token = near.from.recv().await.unwrap();
        let network = start_with(relayed(path)).await;
        network.join(&token, "a").await.unwrap();
        network.connect(token.inviter, SOON).await.unwrap();
        assert_eq!(network.peers()[0].path, Some(PeerAddr::Relay(url())));
        open.send(()).unwrap();
        let direct = PeerAddr::Ip((BOB, DEFAULT_PORT).into());
        until(&network, "a direct way", || network.peers()[0].path == Some(direct.clone())).await;
        assert!(matches!(send_bulk(&network, token.inviter, 2).await, BulkPath::Tcp(_)));
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    opened.blocking_recv().unwrap();
    world.pass_on("1");
    work.join().unwrap();
    founder.join().unwrap();
    relay.stop();
}

/// A relay with a certificate of an authority of one's own; gives the authority's.
fn certified() -> (RelayConfig, String) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = authority.self_signed(&authority_key).unwrap().pem();
    let issuer = Issuer::new(authority, authority_key);
    let key = KeyPair::generate().unwrap();
    let names = CertificateParams::new(vec![RELAY.ip().to_string()]).unwrap();
    let certificate = names.signed_by(&key, &issuer).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let mut config = RelayConfig::new(SocketAddr::from(([0, 0, 0, 0], 0)));
    let everywhere = SocketAddr::from(([0, 0, 0, 0], RELAY.port()));
    let certificate = CertConfig::Manual { server_config: server };
    config.tls = Some(TlsConfig::new(everywhere, certificate));
    (config, pem)
}

#[test]
fn a_relay_may_show_a_certificate_of_ones_own_authority_and_must() {
    let Some(world) = World::make("tls") else { return };
    let (server, authority) = certified();
    let relay = world.relay(move || server);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("relay.pem");
    std::fs::write(&file, authority).unwrap();
    let config = move |dir: PathBuf, relay_ca| {
        let relay = Some(format!("https://{RELAY}/"));
        Config { relay, relay_ca, ..everyday(&dir) }
    };
    let (mut near, far) = talk();
    let founder_config = config(dir.path().join("b"), Some(file.clone()));
    let founder = world.bob.inside(move || founder(founder_config, far));
    let path = dir.path().to_owned();
    let work = world.ada.inside(move || async move {
        let token: Token = near.from.recv().await.unwrap();
        // Without the authority the relay could be anybody.
        let listen = SocketAddr::from(([0, 0, 0, 0], 0));
        let trusting = Config { listen, ..config(path.join("trusting"), None) };
        let trusting = start_with(trusting).await;
        assert!(matches!(trusting.join(&token, "a").await, Err(Error::Unreachable { .. })));
        trusting.shutdown(SOON).await;

        let network = start_with(config(path.join("a"), Some(file))).await;
        network.join(&token, "a").await.unwrap();
        network.connect(token.inviter, SOON).await.unwrap();
        assert!(matches!(network.peers()[0].path, Some(PeerAddr::Relay(_))));
        until(&network, "the relay", || network.relay().is_some_and(|relay| relay.connected)).await;
        assert_eq!(send_bulk(&network, token.inviter, 2).await, BulkPath::NodeConnection);
        near.to.send(()).unwrap();
        network.shutdown(SOON).await;
    });
    work.join().unwrap();
    founder.join().unwrap();
    relay.stop();
}

/// A name server that refuses every question at once: the moment to ask another.
fn refuse_names(at: &Namespace, server: Ipv4Addr, over: Arc<AtomicBool>) -> JoinHandle<()> {
    at.ip(&format!("addr add {server}/32 dev lo"));
    at.inside(move || async move {
        let socket = std::net::UdpSocket::bind((server, 53)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let mut message = [0; 512];
        while !over.load(Ordering::Relaxed) {
            let Ok((len, asker)) = socket.recv_from(&mut message) else { continue };
            // An answer, and its code: refused.
            message[2] |= 0x80;
            message[3] = (message[3] & 0xf0) | 5;
            let _ = socket.send_to(&message[..len], asker);
        }
    })
}

#[test]
fn an_unknown_name_of_a_relay_is_asked_of_the_systems_name_servers_only() {
    let Some(world) = World::make("names") else { return };
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let own = text.lines().filter_map(|line| line.strip_prefix("nameserver ")?.trim().parse().ok());
    let own: Vec<Ipv4Addr> = own.filter(|server: &Ipv4Addr| !server.is_loopback()).collect();
    let over = Arc::new(AtomicBool::new(false));
    let refuse = |server: &Ipv4Addr| refuse_names(&world.hub, *server, over.clone());
    let refusing: Vec<_> = own.iter().map(refuse).collect();
    let watch = world.watch(over.clone());
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let work = world.ada.inside(move || async move {
        let relay = Some("https://relay.household.test:3341/".to_owned());
        let network = start_with(Config { relay, ..everyday(&path) }).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert!(!network.relay().unwrap().connected);
        network.shutdown(SOON).await;
    });
    work.join().unwrap();
    over.store(true, Ordering::Relaxed);
    refusing.into_iter().for_each(|server| server.join().unwrap());
    let mut seen = watch.join().unwrap();
    seen.retain(|addr| !own.contains(addr));
    seen.remove(&Ipv4Addr::new(10, 213, 11, 1));
    assert!(seen.is_empty(), "asked: {seen:?}");
}

#[tokio::test]
async fn a_relay_that_cannot_be_one_is_refused_with_its_key_in_the_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let refused = async |relay: &str, relay_ca| {
        let config = Config { relay: Some(relay.to_owned()), relay_ca, ..Config::new(dir.path()) };
        let link = QuicLink::bind(&config, &NodeKey::ephemeral()).await;
        link.err().unwrap().to_string()
    };
    for (url, words) in [
        ("relay.household.test", "`relay_url`"),
        ("ftp://relay.household.test", "does not begin with https:// or http://"),
    ] {
        let error = refused(url, None).await;
        assert!(error.contains(words) && error.contains(url), "{error}");
    }
    let file = dir.path().join("relay.pem");
    let error = refused("https://relay.household.test", Some(file.clone())).await;
    assert!(error.contains("`relay_ca`") && error.contains("relay.pem"), "{error}");
    std::fs::write(&file, "no certificate").unwrap();
    let error = refused("https://relay.household.test", Some(file)).await;
    assert!(error.contains("no certificate in PEM form"), "{error}");
}

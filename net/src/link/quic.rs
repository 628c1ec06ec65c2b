//! Connections over QUIC by iroh: identity is the key, addresses are hints.
//!
//! No outside server is contacted: no relay unless one is configured, no address lookup, no port
//! mapping, no DNS but for the relay's name. Stream windows stay at their defaults (larger ones abort a connection under
//! load with "too many gaps in stream buffer").

use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use iroh::endpoint::{
    ConnectOptions, ConnectionError, IdleTimeout, QuicTransportConfig, VarInt, presets,
};
use iroh::{Endpoint, EndpointAddr, RelayUrl, TransportAddr};
use iroh_base::PublicKey;
use phantom_model::NodeId;
use tokio::sync::{Mutex, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::{
    CloseCode, Connection, Link, LinkError, LinkStats, PeerAddr, Protocol, RecvHalf, RelayStatus,
    SendHalf, Stream, clean, relay,
};
use crate::config::{Config, Timing};
use crate::error::Error;
use crate::key::NodeKey;

/// Handshakes from outside that may be under way at once.
const MAX_HANDSHAKES: usize = 64;
/// So many bytes may wait to be read on a connection with somebody who is no member here.
const STRANGER_WINDOW: u32 = 1 << 20;
/// How long closing waits for goodbyes to arrive.
const DRAIN: Duration = Duration::from_secs(1);
const ABANDONED: VarInt = VarInt::from_u32(1);
/// So many bytes of pulses may wait.
const PULSES: usize = 64;
const PULSE: &[u8] = &[0];

/// A node's UDP socket and its connections.
pub struct QuicLink {
    endpoint: Endpoint,
    listen: SocketAddr,
    relay: Option<RelayUrl>,
    advertise: Vec<SocketAddr>,
    timing: Timing,
    accepted: Mutex<mpsc::Receiver<Arc<dyn Connection>>>,
    stop: CancellationToken,
}

impl QuicLink {
    /// Binds the UDP port and begins to answer handshakes.
    ///
    /// # Errors
    /// The port cannot be had, or the relay is not a URL.
    pub async fn bind(config: &Config, key: &NodeKey) -> Result<Self, Error> {
        let relay = relay::configured(config)?;
        let failed =
            |reason: String| Error::Bind { addr: format!("UDP {}", config.listen), reason };
        let builder =
            relay::configure(Endpoint::builder(presets::Minimal), relay.as_ref(), config)?;
        let mut builder = builder
            .secret_key(key.0.clone())
            .alpns(Protocol::ALL.map(|protocol| protocol.alpn().to_vec()).to_vec())
            .clear_address_lookup()
            .transport_config(transport(&config.timing, None))
            .clear_ip_transports()
            .bind_addr(config.listen)
            .map_err(|error| failed(error.to_string()))?;
        if config.listen.ip().is_unspecified() && config.listen.is_ipv4() {
            // Both families on one port; machines without IPv6 do without.
            let v6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, config.listen.port()));
            let optional = iroh::endpoint::BindOpts::default().set_is_required(false);
            builder = builder
                .bind_addr_with_opts(v6, optional)
                .map_err(|error| failed(error.to_string()))?;
        }
        let endpoint = builder.bind().await.map_err(|error| failed(chain(&error)))?;
        let stop = CancellationToken::new();
        let (sender, accepted) = mpsc::channel(16);
        tokio::spawn(accept_all(endpoint.clone(), config.timing, sender, stop.clone()));
        if let Some(relay) = &relay {
            tokio::spawn(relay::watch(endpoint.clone(), relay.clone(), stop.clone()));
        }
        Ok(Self {
            endpoint,
            listen: config.listen,
            relay,
            advertise: config.advertise.clone(),
            timing: config.timing,
            accepted: Mutex::new(accepted),
            stop,
        })
    }

    /// The UDP port, when the configured one was 0.
    pub fn port(&self) -> u16 {
        self.endpoint
            .bound_sockets()
            .iter()
            .map(SocketAddr::port)
            .find(|port| *port != 0)
            .unwrap_or(0)
    }

    fn may_dial(&self, addr: &PeerAddr) -> bool {
        match addr {
            // This node itself would answer there, first and with the wrong key, and the handshake
            // would fail at all addresses.
            PeerAddr::Ip(ip) => ip.port() != self.port() || !is_loopback(addr),
            // Nobody else has a say in which servers this node contacts.
            PeerAddr::Relay(url) => {
                self.relay.as_ref().is_some_and(|own| url.parse().is_ok_and(|url| *own == url))
            }
        }
    }
}

/// How often a connection says that it lives, and how long it may be silent. Those of members are
/// seldom used: what they need at rest; one that is in use is watched by `peer::pulse`. Who has
/// dialled says a little sooner that it lives, so that the other only answers; and of the two sides'
/// bounds on silence the lower counts.
fn transport(timing: &Timing, dialled: Option<Protocol>) -> QuicTransportConfig {
    let (pulse, silent) = match dialled {
        None => (timing.rest_pulse, timing.rest_silent),
        Some(Protocol::Member) => (timing.rest_pulse * 4 / 5, timing.rest_silent),
        Some(Protocol::Join | Protocol::Abroad) => (timing.pulse, timing.silent),
    };
    let idle = IdleTimeout::try_from(silent).ok();
    QuicTransportConfig::builder()
        .max_idle_timeout(idle)
        // Each path has its own.
        .keep_alive_interval(timing.rest_silent)
        .default_path_max_idle_timeout(silent)
        .default_path_keep_alive_interval(pulse)
        // Pulses: they are not read, and old ones make room.
        .datagram_receive_buffer_size(Some(PULSES))
        .datagram_send_buffer_size(PULSES)
        // Until a peer is admitted it may open one stream: nothing else can even be sent.
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .receive_window(VarInt::from_u32(STRANGER_WINDOW))
        .build()
}

/// The error and what is behind it, on one line.
pub(super) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        source = inner.source();
    }
    text
}

async fn accept_all(
    endpoint: Endpoint,
    timing: Timing,
    sender: mpsc::Sender<Arc<dyn Connection>>,
    stop: CancellationToken,
) {
    let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = stop.cancelled() => None,
        };
        let Some(incoming) = incoming else { return };
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            incoming.refuse();
            continue;
        };
        let sender = sender.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let Ok(accepting) = incoming.accept() else {
                return;
            };
            match timeout(timing.handshake, accepting).await {
                Ok(Ok(connection)) => {
                    if let Some(connection) = QuicConnection::new(connection, false) {
                        let _ = sender.send(Arc::new(connection)).await;
                    }
                }
                Ok(Err(error)) => tracing::debug!(%error, "a handshake from outside failed"),
                Err(_) => tracing::debug!("a handshake from outside took too long"),
            }
        });
    }
}

#[async_trait]
impl Link for QuicLink {
    fn id(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    async fn addrs(&self) -> Vec<PeerAddr> {
        let own = self.endpoint.addr();
        let found = own.addrs.iter().filter_map(from_transport);
        let given = self.advertise.iter().copied().map(PeerAddr::Ip);
        // Also while it is not connected: others may need it before it is.
        let relay = self.relay.iter().map(|url| PeerAddr::Relay(url.to_string()));
        let mut addrs: Vec<PeerAddr> = Vec::new();
        for addr in given.chain(relay).chain(found).filter(PeerAddr::is_sane) {
            if !addrs.contains(&addr) {
                addrs.push(addr);
            }
        }
        // Loopback is all that is left of a machine that has lost its network, and a different
        // machine for everybody who hears of it. Only a node that listens nowhere else means it.
        if !self.listen.ip().is_loopback() {
            addrs.retain(|addr| !is_loopback(addr));
        }
        // The links of apps have addresses of that range. A private network may as well, so they
        // stay; but as lists are cut short, they must not crowd out the others.
        addrs.sort_by_key(is_shared);
        addrs
    }

    async fn dial(
        &self,
        peer: NodeId,
        addrs: &[PeerAddr],
        protocol: Protocol,
    ) -> Result<Arc<dyn Connection>, LinkError> {
        let key = PublicKey::from_bytes(&peer.0)
            .map_err(|_| LinkError::Other(format!("{peer} is not a key")))?;
        let addrs: Vec<_> =
            addrs.iter().filter(|addr| self.may_dial(addr)).filter_map(to_transport).collect();
        if addrs.is_empty() {
            return Err(LinkError::NoAddress);
        }
        let target = EndpointAddr::from_parts(key, addrs);
        let options =
            ConnectOptions::new().with_transport_config(transport(&self.timing, Some(protocol)));
        let dialled = async {
            let begun = self.endpoint.connect_with_opts(target, protocol.alpn(), options).await;
            let connecting = begun.map_err(|error| LinkError::Other(chain(&error)))?;
            connecting.await.map_err(|error| connect_error(&error))
        };
        let dialled = timeout(self.timing.handshake, dialled).await;
        let connection = dialled.unwrap_or(Err(LinkError::Silent))?;
        QuicConnection::new(connection, true)
            .map(|connection| Arc::new(connection) as Arc<dyn Connection>)
            .ok_or_else(|| LinkError::Other("the other side speaks another protocol".to_owned()))
    }

    fn relay(&self) -> Option<RelayStatus> {
        self.relay.as_ref().map(|relay| relay::status(&self.endpoint, relay))
    }

    async fn accept(&self) -> Option<Arc<dyn Connection>> {
        self.accepted.lock().await.recv().await
    }

    async fn network_changed(&self) {
        self.endpoint.network_change().await;
    }

    async fn close(&self) {
        self.stop.cancel();
        // Peers that answer have been told within a round trip. The endpoint waits seconds longer
        // for a dial under way to a node that does not.
        if timeout(DRAIN, self.endpoint.close()).await.is_err() {
            tracing::debug!("some connections ended without a goodbye");
        }
    }
}

fn from_transport(addr: &TransportAddr) -> Option<PeerAddr> {
    match addr {
        TransportAddr::Ip(addr) => Some(PeerAddr::Ip(canonical(*addr))),
        TransportAddr::Relay(url) => Some(PeerAddr::Relay(url.to_string())),
        _ => None,
    }
}

fn to_transport(addr: &PeerAddr) -> Option<TransportAddr> {
    match addr {
        PeerAddr::Ip(addr) => Some(TransportAddr::Ip(*addr)),
        PeerAddr::Relay(url) => url.parse().ok().map(TransportAddr::Relay),
    }
}

fn is_loopback(addr: &PeerAddr) -> bool {
    matches!(addr, PeerAddr::Ip(addr) if canonical(*addr).ip().is_loopback())
}

/// Whether it is of the address space for use behind a translator, 100.64.0.0/10 (RFC 6598).
fn is_shared(addr: &PeerAddr) -> bool {
    match addr {
        PeerAddr::Ip(SocketAddr::V4(addr)) => {
            let [first, second, ..] = addr.ip().octets();
            first == 100 && second & 0xc0 == 64
        }
        _ => false,
    }
}

/// IPv4 addresses in IPv6 clothes compare as what they are.
fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

fn connect_error(error: &(dyn std::error::Error + 'static)) -> LinkError {
    let mut source = Some(error);
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<ConnectionError>() {
            return link_error(inner);
        }
        source = inner.source();
    }
    LinkError::Other(chain(error))
}

fn link_error(error: &ConnectionError) -> LinkError {
    match error {
        ConnectionError::ApplicationClosed(close) => LinkError::ClosedByPeer {
            code: CloseCode::from_number(close.error_code.into_inner()),
            reason: clean(&close.reason),
        },
        ConnectionError::LocallyClosed => LinkError::ClosedHere,
        ConnectionError::TimedOut => LinkError::Silent,
        ConnectionError::Reset => LinkError::Other("the other side has restarted".to_owned()),
        other => LinkError::Other(clean(other.to_string().as_bytes())),
    }
}

struct QuicConnection {
    inner: iroh::endpoint::Connection,
    protocol: Protocol,
    dialled: bool,
    /// This side has closed it because nothing was heard.
    was_silent: AtomicBool,
}

impl QuicConnection {
    fn new(inner: iroh::endpoint::Connection, dialled: bool) -> Option<Self> {
        let protocol = Protocol::from_alpn(inner.alpn())?;
        Some(Self { inner, protocol, dialled, was_silent: AtomicBool::new(false) })
    }

    fn error(&self, error: &ConnectionError) -> LinkError {
        match link_error(error) {
            LinkError::ClosedHere if self.was_silent.load(Ordering::Relaxed) => LinkError::Silent,
            error => error,
        }
    }
}

#[async_trait]
impl Connection for QuicConnection {
    fn peer(&self) -> NodeId {
        NodeId(*self.inner.remote_id().as_bytes())
    }

    fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn dialled(&self) -> bool {
        self.dialled
    }

    async fn open(&self) -> Result<Stream, LinkError> {
        let (send, recv) = self.inner.open_bi().await.map_err(|error| self.error(&error))?;
        Ok(Stream::new(QuicSend(send), QuicRecv(recv)))
    }

    async fn accept(&self) -> Result<Stream, LinkError> {
        let (send, recv) = self.inner.accept_bi().await.map_err(|error| self.error(&error))?;
        Ok(Stream::new(QuicSend(send), QuicRecv(recv)))
    }

    fn allow(&self, streams: u32) {
        self.inner.set_max_concurrent_bi_streams(VarInt::from_u32(streams));
        if self.protocol == Protocol::Member {
            // Each stream has its own bound.
            self.inner.set_receive_window(VarInt::MAX);
        }
    }

    fn pulse(&self) {
        // Where there is no room, pulses wait to be sent already.
        let _ = self.inner.send_datagram(Bytes::from_static(PULSE));
    }

    fn heard(&self) -> u64 {
        // What was decrypted: anybody can send bytes.
        let frames = self.inner.stats().frame_rx;
        [frames.acks, frames.path_acks, frames.stream, frames.datagram, frames.ping]
            .into_iter()
            .fold(0, u64::wrapping_add)
    }

    fn close(&self, code: CloseCode, reason: &str) {
        self.was_silent.fetch_or(code == CloseCode::Silent, Ordering::Relaxed);
        self.inner.close(VarInt::from_u32(code as u32), reason.as_bytes());
    }

    async fn closed(&self) -> LinkError {
        self.error(&self.inner.closed().await)
    }

    fn is_closed(&self) -> bool {
        self.inner.close_reason().is_some()
    }

    fn stats(&self) -> LinkStats {
        let totals = self.inner.stats();
        let paths = self.inner.paths();
        let selected = paths.iter().find(|path| path.is_selected());
        LinkStats {
            path: selected.as_ref().and_then(|path| from_transport(path.remote_addr())),
            rtt: selected.as_ref().map(|path| Duration::from_micros(path.rtt().as_micros() as u64)),
            bytes_in: totals.udp_rx.bytes,
            bytes_out: totals.udp_tx.bytes,
        }
    }
}

struct QuicSend(iroh::endpoint::SendStream);
struct QuicRecv(iroh::endpoint::RecvStream);

impl SendHalf for QuicSend {
    fn set_priority(&mut self, priority: i32) {
        // Fails only when the stream has ended, and then it no longer matters.
        let _ = self.0.set_priority(priority);
    }

    fn reset(&mut self) {
        let _ = self.0.reset(ABANDONED);
    }
}

impl RecvHalf for QuicRecv {
    fn stop(&mut self) {
        let _ = self.0.stop(ABANDONED);
    }
}

impl tokio::io::AsyncWrite for QuicSend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}

impl tokio::io::AsyncRead for QuicRecv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, buf)
    }
}

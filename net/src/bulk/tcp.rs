//! TCP connections for lanes.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use phantom_model::NodeId;
use rustls::pki_types::ServerName;
use tokio::io::BufReader;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::lane::Duplex;
use super::tls::{Tls, peer_of};
use super::{Arrivals, BulkPath};

/// Handshakes and lanes from outside at once.
const MAX_CONNECTIONS: usize = 64;
/// Bytes taken from the kernel at once.
const READ_AHEAD: usize = 256 << 10;
const HANDSHAKE: Duration = Duration::from_secs(4);

/// Takes TCP connections for announced transfers.
pub(crate) struct Listener {
    socket: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener {
    /// Listens beside the node's UDP socket at `listen`.
    pub async fn bind(listen: SocketAddr, tls: &Tls) -> std::io::Result<Self> {
        let both = SocketAddr::from((Ipv6Addr::UNSPECIFIED, listen.port()));
        let socket = if listen.ip() == Ipv4Addr::UNSPECIFIED {
            // One socket for both families, unless the machine has no IPv6.
            match TcpListener::bind(both).await {
                Ok(socket) => socket,
                Err(_) => TcpListener::bind(listen).await?,
            }
        } else {
            TcpListener::bind(listen).await?
        };
        let acceptor = TlsAcceptor::from(tls.server().map_err(std::io::Error::other)?);
        Ok(Self { socket, acceptor })
    }

    /// The port it listens on.
    pub fn port(&self) -> Option<u16> {
        self.socket.local_addr().ok().map(|addr| addr.port())
    }

    /// Serves until `stop`.
    pub async fn run(self, arrivals: Arrivals, tasks: TaskTracker, stop: CancellationToken) {
        let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let accepted = tokio::select! {
                accepted = self.socket.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let (stream, from) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a bulk connection");
                    // Out of descriptors, mostly: let some be closed first.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            // While nothing is expected nobody gets as much as a handshake.
            let Ok(permit) = room.clone().try_acquire_owned() else {
                continue;
            };
            if !arrivals.any() {
                continue;
            }
            let (acceptor, arrivals, stop) =
                (self.acceptor.clone(), arrivals.clone(), stop.clone());
            tasks.spawn(async move {
                let _permit = permit;
                let serve = serve(acceptor, stream, from, arrivals);
                tokio::select! {
                    () = serve => {}
                    () = stop.cancelled() => {}
                }
            });
        }
    }
}

async fn serve(acceptor: TlsAcceptor, stream: TcpStream, from: SocketAddr, arrivals: Arrivals) {
    let _ = stream.set_nodelay(true);
    // TLS asks for four kilobytes at a time; without this each would be a system call.
    let stream = BufReader::with_capacity(READ_AHEAD, stream);
    let stream = match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%from, %error, "a bulk handshake failed"),
        Err(_) => return tracing::debug!(%from, "a bulk handshake took too long"),
    };
    if let Some(peer) = peer_of(stream.get_ref().1) {
        arrivals.lane_on(peer, Box::new(stream), BulkPath::Tcp(from)).await;
    }
}

/// Up to `lanes` connections to `peer` at `addr`: those that can be made within `within`.
pub(crate) async fn dial(
    tls: &Tls,
    peer: NodeId,
    addr: SocketAddr,
    lanes: u16,
    within: Duration,
) -> Vec<Box<dyn Duplex>> {
    let (Ok(config), Ok(name)) = (tls.client(peer), ServerName::try_from("phantom.invalid")) else {
        return Vec::new();
    };
    let connector = TlsConnector::from(config);
    let mut dials = JoinSet::new();
    for _ in 0..lanes {
        let (connector, name) = (connector.clone(), name.clone());
        dials.spawn(timeout(within, async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            connector.connect(name, stream).await
        }));
    }
    let mut made: Vec<Box<dyn Duplex>> = Vec::new();
    while let Some(dialled) = dials.join_next().await {
        match dialled {
            Ok(Ok(Ok(stream))) => made.push(Box::new(stream)),
            Ok(Ok(Err(error))) => tracing::debug!(%addr, %error, "no bulk connection"),
            _ => tracing::debug!(%addr, "no bulk connection in time"),
        }
    }
    made
}

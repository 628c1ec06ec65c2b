//! The UDP socket: datagrams to nodes, and to the group on each local network.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use nix::net::if_::InterfaceFlags;
use nix::sys::socket::sockopt::RcvBufForce;
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, SockAddr, Socket, Type};
use tokio::net::UdpSocket;

use crate::config::GROUP;
use crate::wire::MAX_DATAGRAM;

/// So many bytes may wait to be read, as the kernel counts them: some 1 KiB for a short datagram.
const RECEIVED: usize = 2 << 20;

/// An address of this machine on a network where others may be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Interface {
    name: String,
    addr: Ipv4Addr,
}

/// Both kinds of IP; either may be missing on a machine.
pub(crate) struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
    port: u16,
    joined: BTreeSet<Interface>,
}

impl Sockets {
    /// Listens on `port`.
    pub fn bind(port: u16) -> io::Result<Self> {
        let v4 = bind(Domain::IPV4, (Ipv4Addr::UNSPECIFIED, port).into());
        let v6 = bind(Domain::IPV6, (Ipv6Addr::UNSPECIFIED, port).into());
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self { v4: v4.ok(), v6: v6.ok(), port, joined: BTreeSet::new() }),
        }
    }

    /// Listens to the group on all networks there are now. Returns whether they are others than
    /// before.
    pub fn join(&mut self) -> bool {
        let now = interfaces();
        if now == self.joined {
            return false;
        }
        let Some(v4) = &self.v4 else { return false };
        let socket = socket2::SockRef::from(v4);
        for gone in self.joined.difference(&now) {
            let _ =
                socket.leave_multicast_v4_n(&GROUP, &InterfaceIndexOrAddress::Address(gone.addr));
        }
        for new in now.difference(&self.joined) {
            let at = InterfaceIndexOrAddress::Address(new.addr);
            if let Err(error) = socket.join_multicast_v4_n(&GROUP, &at) {
                tracing::debug!(%error, interface = new.name, "it cannot be listened to");
            }
        }
        self.joined = now;
        true
    }

    /// Sends to the group on all networks joined.
    pub async fn send_to_all(&self, datagram: &[u8]) {
        let Some(v4) = &self.v4 else { return };
        for interface in &self.joined {
            let sent = match socket2::SockRef::from(v4).set_multicast_if_v4(&interface.addr) {
                Ok(()) => v4.send_to(datagram, (GROUP, self.port)).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = sent {
                tracing::debug!(%error, interface = interface.name, "nothing can be sent there");
            }
        }
    }

    /// Sends to one node. That it did not arrive is nothing special.
    pub async fn send(&self, datagram: &[u8], to: SocketAddr) {
        let socket = if to.is_ipv4() { &self.v4 } else { &self.v6 };
        if let Some(socket) = socket
            && let Err(error) = socket.send_to(datagram, to).await
        {
            tracing::trace!(%error, %to, "a datagram was not sent");
        }
    }

    /// The next datagram.
    pub async fn receive(&self) -> (Vec<u8>, SocketAddr) {
        let mut v4 = vec![0; MAX_DATAGRAM + 1];
        let mut v6 = vec![0; MAX_DATAGRAM + 1];
        tokio::select! {
            (bytes, from) = next(&self.v4, &mut v4) => (v4[..bytes].to_vec(), from),
            (bytes, from) = next(&self.v6, &mut v6) => (v6[..bytes].to_vec(), from),
        }
    }
}

async fn next(socket: &Option<UdpSocket>, buffer: &mut [u8]) -> (usize, SocketAddr) {
    let Some(socket) = socket else { return std::future::pending().await };
    loop {
        // An error here is that of something sent before.
        if let Ok((bytes, from)) = socket.recv_from(buffer).await {
            return (bytes, from);
        }
    }
}

fn bind(domain: Domain, addr: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP))?;
    // Another program may listen to the same group.
    socket.set_reuse_address(true)?;
    // All members answer a super-peer's beat at once. Only root gets more than the system's usual.
    if nix::sys::socket::setsockopt(&socket, RcvBufForce, &RECEIVED).is_err() {
        socket.set_recv_buffer_size(RECEIVED)?;
    }
    if domain == Domain::IPV6 {
        socket.set_only_v6(true)?;
    } else {
        // What is sent to the group stays on the local network.
        socket.set_multicast_ttl_v4(1)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(addr))?;
    UdpSocket::from_std(socket.into())
}

/// The networks of this machine that can have others on them.
fn interfaces() -> BTreeSet<Interface> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else { return BTreeSet::new() };
    let wanted = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_MULTICAST;
    all.filter(|entry| entry.flags.contains(wanted))
        .filter(|entry| !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|entry| {
            let addr = entry.address?.as_sockaddr_in()?.ip();
            Some(Interface { name: entry.interface_name, addr })
        })
        .collect()
}

/// Whether an address can be that of one machine.
pub(crate) fn is_plain(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
}

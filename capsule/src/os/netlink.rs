//! Just enough of rtnetlink(7) to make a link between two network namespaces: one request, one
//! answer at a time.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use super::sys;

/// How long the kernel may take to answer.
const TIMEOUT: Duration = Duration::from_secs(10);
const HEADER: usize = 16;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const EXCLUSIVE: u16 = 0x200;
const REPLACE: u16 = 0x100;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const IFF_UP: u32 = 1;

/// A request being put together.
struct Message(Vec<u8>);

impl Message {
    fn new(kind: u16, flags: u16, body: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags | REQUEST).to_ne_bytes());
        bytes.extend_from_slice(body);
        Self(bytes)
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.nested(kind, |message| message.0.extend_from_slice(value));
    }

    fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        fill(self);
        let length = (self.0.len() - start) as u16;
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = self.0.len() as u32;
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

fn text(name: &str) -> Vec<u8> {
    name.bytes().chain([0]).collect()
}

fn link_body(index: u32, flags: u32) -> Vec<u8> {
    // struct ifinfomsg: family and type are left open.
    [[0; 4], index.to_ne_bytes(), flags.to_ne_bytes(), flags.to_ne_bytes()].concat()
}

/// A route's destination: an address and the length of its prefix.
pub(crate) type Prefix = (Ipv4Addr, u8);

/// A socket to the kernel's routing in one network namespace.
pub(crate) struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// In the caller's network namespace.
    pub(crate) fn here() -> io::Result<Self> {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        // SAFETY: numbers; the result is checked.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just made this descriptor for us.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket })
    }

    /// In another namespace: a socket belongs to the one it is made in, so a thread goes there,
    /// makes it and ends.
    pub(crate) fn inside(namespace: BorrowedFd<'_>) -> io::Result<Self> {
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Self::here()
            });
            made.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
        })
    }

    /// The index of a link, if it is there.
    pub(crate) fn link_index(&self, name: &str) -> io::Result<Option<u32>> {
        let mut message = Message::new(RTM_GETLINK, 0, &link_body(0, 0));
        message.attribute(IFLA_IFNAME, &text(name));
        let mut index = None;
        let result = self.exchange(message, |kind, body| {
            if kind == RTM_NEWLINK {
                index = number(body, 4);
            }
        });
        match result {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            other => other.map(|()| index),
        }
    }

    /// Makes a pair of links, the second in another namespace.
    pub(crate) fn add_veth(
        &self,
        name: &str,
        peer: &str,
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut message = Message::new(RTM_NEWLINK, ACK | CREATE | EXCLUSIVE, &link_body(0, 0));
        message.attribute(IFLA_IFNAME, &text(name));
        message.nested(IFLA_LINKINFO, |message| {
            message.attribute(IFLA_INFO_KIND, b"veth");
            message.nested(IFLA_INFO_DATA, |message| {
                message.nested(VETH_INFO_PEER, |message| {
                    message.0.extend(link_body(0, 0));
                    message.attribute(IFLA_IFNAME, &text(peer));
                    let namespace = peer_namespace.as_raw_fd() as u32;
                    message.attribute(IFLA_NET_NS_FD, &namespace.to_ne_bytes());
                });
            });
        });
        self.exchange(message, |_, _| {})
    }

    /// Removes a link, and with it its peer. One that is not there is fine.
    pub(crate) fn delete_link(&self, name: &str) -> io::Result<()> {
        let mut message = Message::new(RTM_DELLINK, ACK, &link_body(0, 0));
        message.attribute(IFLA_IFNAME, &text(name));
        match self.exchange(message, |_, _| {}) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Brings a link up.
    pub(crate) fn set_up(&self, index: u32) -> io::Result<()> {
        self.exchange(Message::new(RTM_NEWLINK, ACK, &link_body(index, IFF_UP)), |_, _| {})
    }

    /// Gives a link an address; one it has is fine.
    pub(crate) fn add_address(&self, index: u32, (address, length): Prefix) -> io::Result<()> {
        let family = [libc::AF_INET as u8, length, 0, 0];
        let body = [family, index.to_ne_bytes()].concat();
        let mut message = Message::new(RTM_NEWADDR, ACK | CREATE | REPLACE, &body);
        message.attribute(IFA_LOCAL, &address.octets());
        message.attribute(IFA_ADDRESS, &address.octets());
        self.exchange(message, |_, _| {})
    }

    /// Sends everything without a better route to `gateway`.
    pub(crate) fn add_default_route(&self, index: u32, gateway: Ipv4Addr) -> io::Result<()> {
        const MAIN_TABLE: u8 = 254;
        const BY_ADMINISTRATOR: u8 = 4;
        const UNICAST: u8 = 1;
        let body =
            [[libc::AF_INET as u8, 0, 0, 0], [MAIN_TABLE, BY_ADMINISTRATOR, 0, UNICAST], [0; 4]]
                .concat();
        let mut message = Message::new(RTM_NEWROUTE, ACK | CREATE | REPLACE, &body);
        message.attribute(RTA_GATEWAY, &gateway.octets());
        message.attribute(RTA_OIF, &index.to_ne_bytes());
        self.exchange(message, |_, _| {})
    }

    /// The destinations of all IPv4 routes of all tables, default routes left out.
    pub(crate) fn routes(&self) -> io::Result<Vec<Prefix>> {
        let mut body = [0; 12];
        body[0] = libc::AF_INET as u8;
        let mut routes = Vec::new();
        self.exchange(Message::new(RTM_GETROUTE, DUMP, &body), |kind, body| {
            let length = body.get(1).copied().unwrap_or(0);
            if kind == RTM_NEWROUTE
                && length > 0
                && let Some(address) = find_attribute(body.get(12..).unwrap_or(&[]), RTA_DST)
                && let Ok(octets) = <[u8; 4]>::try_from(address)
            {
                routes.push((Ipv4Addr::from(octets), length));
            }
        })?;
        Ok(routes)
    }

    /// Sends a request and takes the answer: each part to `part`, until an acknowledgement, an
    /// error or the end of a list; a single part is the whole answer where neither was asked for.
    fn exchange(&self, message: Message, mut part: impl FnMut(u16, &[u8])) -> io::Result<()> {
        let bytes = message.finish();
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]);
        nix::sys::socket::send(
            self.socket.as_raw_fd(),
            &bytes,
            nix::sys::socket::MsgFlags::empty(),
        )?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            if !sys::wait_readable(self.socket.as_fd(), TIMEOUT)? {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let flags_none = nix::sys::socket::MsgFlags::empty();
            let count = nix::sys::socket::recv(self.socket.as_raw_fd(), &mut buffer, flags_none)?;
            let mut rest = &buffer[..count];
            while let Some((kind, body, after)) = split_message(rest) {
                rest = after;
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        return match number(body, 0).unwrap_or(0) as i32 {
                            0 => Ok(()),
                            errno => Err(io::Error::from_raw_os_error(-errno)),
                        };
                    }
                    _ => part(kind, body),
                }
            }
            if flags & (ACK | DUMP) == 0 {
                return Ok(());
            }
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Kind and body of the first message, and the rest.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = number(bytes, 0)? as usize;
    let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or(&[])))
}

fn find_attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    loop {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?);
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

//! Network devices, made in a network namespace that ends with the calling thread.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;

use nix::net::if_::if_nametoindex;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket,
};

use super::check;

/// Moves the calling thread into a new network namespace. The thread must end soon.
pub fn enter_new_namespace() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// Makes a TUN device in the calling thread's namespace; it goes with the returned file.
pub fn make_tun() -> io::Result<File> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all fields are numbers or bytes, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"phdoctor0") {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF, &raw mut request) }.into())?;
    Ok(tun)
}

/// Makes a pair of virtual Ethernet devices in the calling thread's namespace.
pub fn make_veth_pair() -> io::Result<()> {
    let netlink = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    send(netlink.as_raw_fd(), &new_veth_request("phdoctor1", "phdoctor2"), MsgFlags::empty())?;
    // The kernel answers within the call: `struct nlmsghdr`, then `struct nlmsgerr`.
    let mut answer = [0; 4096];
    let len = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    let code = answer[..len].get(16..20).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => {}
        Some(code) => return Err(io::Error::from_raw_os_error(-code)),
        None => return Err(io::ErrorKind::UnexpectedEof.into()),
    }
    if_nametoindex("phdoctor2")?;
    Ok(())
}

/// The message `RTM_NEWLINK` for a veth pair.
fn new_veth_request(name: &str, peer: &str) -> Vec<u8> {
    const VETH_INFO_PEER: u16 = 1;
    // `struct ifinfomsg`: nothing is asked for.
    const INTERFACE: [u8; 16] = [0; 16];
    let mut peer_info = INTERFACE.to_vec();
    put_attribute(&mut peer_info, libc::IFLA_IFNAME, format!("{peer}\0").as_bytes());
    let mut data = Vec::new();
    put_attribute(&mut data, VETH_INFO_PEER, &peer_info);
    let mut link = Vec::new();
    put_attribute(&mut link, libc::IFLA_INFO_KIND, b"veth\0");
    put_attribute(&mut link, libc::IFLA_INFO_DATA, &data);
    let mut body = INTERFACE.to_vec();
    put_attribute(&mut body, libc::IFLA_IFNAME, format!("{name}\0").as_bytes());
    put_attribute(&mut body, libc::IFLA_LINKINFO, &link);

    let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
    let mut message = Vec::new();
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend((flags as u16).to_ne_bytes());
    message.extend([0; 8]); // sequence number and port: not needed for one request
    message.extend(body);
    message
}

/// Appends `struct rtattr`: length, kind, value, padding to four bytes.
fn put_attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    to.extend((4 + value.len() as u16).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

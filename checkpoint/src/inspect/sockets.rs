//! The sockets of a network namespace, from the tables in `/proc/PID/net`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use super::ObstacleKind;

/// `TCP_LISTEN` and `TCP_CLOSE`: these have no other end.
const WITHOUT_PEER: [&str; 2] = ["0A", "07"];

/// What is known of each socket, by inode.
pub(super) struct Sockets {
    /// `None`: it can be taken along.
    known: BTreeMap<u64, Option<ObstacleKind>>,
}

impl Sockets {
    /// Reads the tables of the namespace `process` (a folder of `/proc`) is in.
    pub(super) fn read(process: &Path) -> Self {
        let mut known = BTreeMap::new();
        let table =
            |name: &str| fs::read_to_string(process.join("net").join(name)).unwrap_or_default();
        for name in ["tcp", "tcp6"] {
            known.extend(table(name).lines().skip(1).filter_map(connection));
        }
        // Columns that hold the inode, counted from 0.
        for (name, column) in [("udp", 9), ("udp6", 9), ("unix", 6), ("netlink", 9)] {
            let text = table(name);
            known.extend(inodes(&text, column).map(|inode| (inode, None)));
        }
        for (name, column, kind) in [("raw", 9, "raw"), ("raw6", 9, "raw"), ("packet", 8, "packet")]
        {
            let text = table(name);
            known.extend(
                inodes(&text, column)
                    .map(|inode| (inode, Some(ObstacleKind::Socket { kind: kind.to_owned() }))),
            );
        }
        Self { known }
    }

    /// Why the socket with this inode cannot be taken along.
    pub(super) fn obstacle(&self, inode: u64) -> Option<ObstacleKind> {
        // A fresh TCP or Unix socket is in no table and harmless; so is one of another network
        // namespace, which is an obstacle of its own.
        self.known.get(&inode).cloned().flatten()
    }
}

fn inodes(table: &str, column: usize) -> impl Iterator<Item = u64> {
    table.lines().skip(1).filter_map(move |line| line.split_whitespace().nth(column)?.parse().ok())
}

/// A line of the TCP tables: inode, and the other end when it is outside.
fn connection(line: &str) -> Option<(u64, Option<ObstacleKind>)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let inode = fields.get(9)?.parse().ok().filter(|&inode| inode != 0)?;
    let state = fields.get(3)?;
    let local = address(fields.get(1)?)?;
    let peer = address(fields.get(2)?)?;
    // Both ends inside: loopback, or an own address connected to itself.
    let inside = peer.ip().is_loopback() || peer.ip() == local.ip();
    let harmless = WITHOUT_PEER.contains(state) || inside;
    Some((inode, (!harmless).then(|| ObstacleKind::Connection { peer: peer.to_string() })))
}

/// `0100007F:1F90`: the words of the address as they stand in memory, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (words, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(words.get(at..at + 8)?, 16).ok();
    let ip = match words.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut bytes = [0; 16];
            for (index, part) in bytes.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            Ipv6Addr::from(bytes).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_told_apart() {
        let line = |peer: &str, state: &str| {
            format!("0: 0200000A:C350 {peer} {state} 0:0 00:0 0 1000 0 4711 1 0 20 4 30 10 -1")
        };
        let (inode, outside) = connection(&line("0101A8C0:0050", "01")).unwrap();
        assert_eq!(inode, 4711);
        assert_eq!(outside, Some(ObstacleKind::Connection { peer: "192.168.1.1:80".into() }));
        assert_eq!(connection(&line("0100007F:0050", "01")).unwrap().1, None);
        assert_eq!(connection(&line("00000000:0000", "0A")).unwrap().1, None);
        let v6 = "0000000000000000FFFF00000100007F:1F90";
        assert_eq!(address(v6).unwrap().to_string(), "127.0.0.1:8080");
        assert!(connection("sl local rem").is_none());
    }
}

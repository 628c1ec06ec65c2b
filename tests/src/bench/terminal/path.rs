//! The round trip of the path between two nodes: a UDP packet there and back, answered by a thread.

use std::fs::File;
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use nix::sched::{CloneFlags, setns};

use crate::lab::LabNode;

/// How long a packet may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket at one node; one at the other answers.
pub struct Path {
    socket: UdpSocket,
}

impl Path {
    /// Sets both up. The answering thread lives until the benchmark ends.
    pub fn between(here: &LabNode, there: &LabNode) -> anyhow::Result<Self> {
        let answering = socket_in(there)?;
        // The far end of the laboratory's link, from its list of addresses.
        let addresses = there.enter(&["ip", "-4", "-o", "addr", "show", "scope", "global"])?.stdout;
        let address = addresses
            .lines()
            .filter_map(|line| line.split("inet ").nth(1)?.split('/').next())
            .find(|address| address.starts_with("10.77."))
            .context("the far node has no address")?
            .to_owned();
        let port = answering.local_addr()?.port();
        std::thread::spawn(move || {
            let mut packet = [0; 64];
            while let Ok((count, from)) = answering.recv_from(&mut packet) {
                let _ = answering.send_to(&packet[..count], from);
            }
        });
        let socket = socket_in(here)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.connect((address.as_str(), port)).context("no path to the far node")?;
        Ok(Self { socket })
    }

    /// One packet there and back.
    pub fn round_trip(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.socket.send(b"there?")?;
        self.socket.recv(&mut [0; 64]).context("the far node does not answer")?;
        Ok(start.elapsed())
    }
}

/// A UDP socket in a node's network; a socket stays in the namespace it was made in.
fn socket_in(node: &LabNode) -> anyhow::Result<UdpSocket> {
    let space = File::open(format!("/proc/{}/ns/net", node.pid()))?;
    let worker = std::thread::spawn(move || -> anyhow::Result<UdpSocket> {
        setns(space, CloneFlags::CLONE_NEWNET).context("cannot enter the node's network")?;
        Ok(UdpSocket::bind("0.0.0.0:0")?)
    });
    worker.join().map_err(|_| anyhow!("the thread in the node's network failed"))?
}

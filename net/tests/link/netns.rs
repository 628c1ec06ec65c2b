//! Network namespaces, and nodes in them as on real machines.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use phantom_net::config::{DEFAULT_PORT, Timing};
use phantom_net::{BulkOptions, Config, ServiceId};
use tokio::sync::mpsc;

use crate::common::{SOON, start_with};

/// A network namespace; it goes with the value.
pub struct Namespace(String);

impl Namespace {
    /// `None`, and says so, where namespaces cannot be made.
    pub fn make(test: &str, name: &str) -> Option<Self> {
        let this = Self(format!("phnet-{}-{test}-{name}", std::process::id()));
        if !ip(&format!("netns add {}", this.0)) {
            println!("SKIP {test}: cannot make network namespaces (root and `ip` are needed)");
            return None;
        }
        this.ip("link set lo up");
        Some(this)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, args: &str) {
        assert!(ip(&format!("-n {} {args}", self.0)), "`ip {args}` in {}", self.0);
    }

    /// Lays a cable to `other`, called `name` at both ends, with an address for each.
    pub fn wire(&self, other: &Self, name: &str, addrs: [&str; 2]) {
        let (a, b) = (&self.0, &other.0);
        assert!(ip(&format!("link add {name} netns {a} type veth peer name {name} netns {b}")));
        for (end, addr) in [(self, addrs[0]), (other, addrs[1])] {
            end.ip(&format!("addr add {addr} dev {name}"));
            end.ip(&format!("link set {name} up"));
        }
    }

    /// Runs `work` on a thread inside.
    pub fn inside<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = PathBuf::from("/run/netns").join(&self.0);
        std::thread::spawn(move || {
            let namespace = fs::File::open(path).unwrap();
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(work())
        })
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        ip(&format!("netns del {}", self.0));
    }
}

fn ip(args: &str) -> bool {
    Command::new("ip").args(args.split(' ')).status().is_ok_and(|status| status.success())
}

/// As a real node is configured: on all addresses, with the times of every day.
pub fn everyday(dir: &Path) -> Config {
    let listen = SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT));
    let timing = Timing { bulk_stall: Duration::from_secs(2), ..Timing::default() };
    Config { listen, timing, ..Config::new(dir) }
}

/// What the two ends tell each other.
pub struct Talk<T, R> {
    pub to: mpsc::UnboundedSender<T>,
    pub from: mpsc::UnboundedReceiver<R>,
}

pub fn talk<T, R>() -> (Talk<T, R>, Talk<R, T>) {
    let ((to_b, at_b), (to_a, at_a)) = (mpsc::unbounded_channel(), mpsc::unbounded_channel());
    (Talk { to: to_b, from: at_a }, Talk { to: to_a, from: at_b })
}

/// The founder at one end: sends the token, answers echoes, takes bulk data until told to end.
pub async fn founder(config: Config, mut talk: Talk<phantom_net::Token, ()>) {
    let network = start_with(config).await;
    network.found("b").await.unwrap();
    talk.to.send(network.invite(SOON).await.unwrap()).unwrap();
    let serving = network.clone();
    tokio::spawn(async move {
        while let Some(mut incoming) = serving.accept().await {
            let network = serving.clone();
            tokio::spawn(async move {
                if incoming.service == ServiceId::CONTROL {
                    let request: u8 = incoming.request(SOON).await?;
                    return incoming.reply(&request, SOON).await;
                }
                let options = BulkOptions { stall: SOON, ..BulkOptions::default() };
                let mut receiver = network.bulk_receive(incoming.peer, options);
                incoming.reply(&receiver.ticket(), SOON).await?;
                while receiver.next().await?.is_some() {}
                Ok(())
            });
        }
    });
    let _ = talk.from.recv().await;
    network.shutdown(SOON).await;
}

//! What passes between the daemon and a guard, over `guard.sock`.
//!
//! From the daemon come messages of one size, so that one which stops in the middle of a message
//! holds nothing up; from the guard lines of JSON.

use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// What a guard is started with, in `charge.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Charge {
    /// What the service is called.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Whose rights it has.
    pub user: Login,
    /// Where it starts.
    pub cwd: PathBuf,
    /// This node, shortened: names the control group.
    pub node_short: String,
    /// Where its output goes.
    pub log: PathBuf,
    /// The claim in whose name it runs.
    pub run: u64,
    /// Of the terms it was started with.
    pub version: u64,
    /// When all of it must be dead, as CLOCK_BOOTTIME counts.
    pub until: Duration,
    /// How long it may take to end by itself.
    pub stop: Duration,
}

/// An account with its ids.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Login {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Home directory.
    pub home_dir: PathBuf,
}

/// From the daemon. Times are CLOCK_BOOTTIME's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// It may run until then.
    Permit(Duration),
    /// It shall end, and is killed then.
    Stop(Duration),
}

/// Length of an [`Order`] on its way.
pub const ORDER_BYTES: usize = 9;

impl Order {
    /// As it is sent.
    pub fn encode(self) -> [u8; ORDER_BYTES] {
        let (kind, at) = match self {
            Order::Permit(at) => (1, at),
            Order::Stop(at) => (2, at),
        };
        let mut bytes = [kind; ORDER_BYTES];
        let nanos = u64::try_from(at.as_nanos()).unwrap_or(u64::MAX);
        bytes[1..].copy_from_slice(&nanos.to_le_bytes());
        bytes
    }

    /// What was sent; `None` for what nobody sends.
    pub fn decode(bytes: [u8; ORDER_BYTES]) -> Option<Self> {
        let [kind, nanos @ ..] = bytes;
        let at = Duration::from_nanos(u64::from_le_bytes(nanos));
        match kind {
            1 => Some(Order::Permit(at)),
            2 => Some(Order::Stop(at)),
            _ => None,
        }
    }
}

/// From the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The first on every connection: what it holds.
    Standing {
        /// The claim.
        run: u64,
        /// When it ends what it holds.
        until: Duration,
        /// Of the terms.
        version: u64,
        /// How long the service may take to end.
        stop: Duration,
    },
    /// All processes of the service have ended.
    Ended {
        /// In words.
        how: String,
        /// The permission was over.
        lapsed: bool,
    },
}

/// The folder of one service on this node.
#[derive(Debug, Clone)]
pub struct GuardDir(pub PathBuf);

impl GuardDir {
    /// What the guard is started with.
    pub fn charge(&self) -> PathBuf {
        self.0.join("charge.json")
    }

    /// Where the guard listens.
    pub fn socket(&self) -> PathBuf {
        self.0.join("guard.sock")
    }

    /// What the guard itself has to say.
    pub fn log(&self) -> PathBuf {
        self.0.join("guard.log")
    }
}

impl From<&Path> for GuardDir {
    fn from(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

/// The name of the service's control group.
pub fn group_name(service: &str) -> String {
    format!("follow-{service}")
}

/// What CLOCK_BOOTTIME says: it goes on while the machine sleeps.
pub fn boot_clock() -> Duration {
    clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_arrive_as_they_were_sent_and_noise_is_none() {
        let at = Duration::from_nanos(123_456_789_012_345);
        for order in [Order::Permit(at), Order::Stop(at), Order::Stop(Duration::ZERO)] {
            assert_eq!(Order::decode(order.encode()), Some(order));
        }
        assert_eq!(Order::decode([0; ORDER_BYTES]), None);
        assert_eq!(Order::decode([0xff; ORDER_BYTES]), None);
    }
}

//! Where a node keeps its things and what its owner set: `/etc/phantom/phantom.toml`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use phantom_discovery::dns::Servers;
use phantom_discovery::region::RegionConfig;
use phantom_model::{AppId, Bytes, Limit, Limits, Resource};
use phantom_net::config::DEFAULT_PORT;
use phantom_qos::Rule;
use serde::{Deserialize, Deserializer};

use crate::daemon::hold::HoldAt;

/// Where the configuration is read from unless told otherwise.
pub const DEFAULT_FILE: &str = "/etc/phantom/phantom.toml";

/// The configuration of one node. Every field has a default; an absent file means all of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What people call this node; its host name when empty.
    pub name: String,
    /// UDP (and TCP, for bulk) address other nodes reach it at.
    pub listen: SocketAddr,
    /// UDP port by which nodes find each other; all of one local network use the same.
    pub discovery_port: u16,
    /// Whether to look for others on the local network by multicast, and to be found so.
    pub multicast: bool,
    /// Own relay for nodes that cannot reach each other directly; none by default.
    pub relay_url: Option<String>,
    /// PEM file of the authority that signed the relay's certificate, when it is one's own.
    pub relay_ca: Option<PathBuf>,
    /// Sockets and the state of running apps; must lie in memory.
    pub run_dir: PathBuf,
    /// What outlives a reboot: key, certificate, records.
    pub state_dir: PathBuf,
    /// Verified copies of other nodes' system files.
    pub cache_dir: PathBuf,
    /// How large that cache may grow.
    #[serde(deserialize_with = "from_text")]
    pub cache_max: Bytes,
    /// One unobtrusive line on the user's terminal when something happens to an app.
    pub messages: bool,
    /// Whether the kernel monitor starts with the daemon.
    pub qos: bool,
    /// When this machine counts as stuttering, like `30%/10s`: something waited for a CPU, for
    /// memory or for a disk for so much of the time. Then one app after the other moves away,
    /// foreign ones first, until it does no more. Off by default.
    #[serde(deserialize_with = "stutter")]
    pub stutter: Option<Limit>,
    /// Programs that Phantom did not start and that shall be watched all the same: they are reported
    /// in the log and by `phantom qos`.
    pub watch: Vec<Watch>,
    /// How regions are found by name, and their entries written.
    pub dns: Dns,
    /// Whether services that the sub-grid's policy names (`[[follow]]`) may run here while this node
    /// is super-peer.
    pub follow: bool,
    /// For tests only: stop at this border of every move until `<run_dir>/go` exists, for at most
    /// a minute. `<run_dir>/held` shows that it was reached.
    pub hold_at: Option<HoldAt>,
    /// For tests only: claims that a core of this node computes so many Mflop/s, as a liar would.
    pub claim_mflops: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: String::new(),
            listen: SocketAddr::from(([0, 0, 0, 0], DEFAULT_PORT)),
            discovery_port: phantom_discovery::DEFAULT_PORT,
            multicast: true,
            relay_url: None,
            relay_ca: None,
            run_dir: "/run/phantom".into(),
            state_dir: "/var/lib/phantom".into(),
            cache_dir: "/var/cache/phantom/files".into(),
            cache_max: Bytes(4 << 30),
            messages: true,
            qos: true,
            stutter: None,
            watch: Vec::new(),
            dns: Dns::default(),
            follow: true,
            hold_at: None,
            claim_mflops: None,
        }
    }
}

/// `[dns]`: how regions are found by name, and how a region-peer writes the entry of its region.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Dns {
    /// Name servers to ask, like `192.0.2.53:53`; those of the machine when there are none.
    pub servers: Vec<SocketAddr>,
    /// File of the key that may write the region's entry, as `tsig-keygen` prints it.
    pub key: Option<PathBuf>,
    /// The server that takes updates; the primary that the zone names when absent.
    pub primary: Option<SocketAddr>,
    /// Under which names and addresses other sites reach this node; its own addresses when absent.
    pub hosts: Vec<String>,
}

/// One `[[watch]]`: programs that fit all that is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watch {
    /// Pattern of the program's name, like `firefox*`.
    pub name: Option<String>,
    /// Login name of its user.
    pub user: Option<String>,
    /// Pattern of its control group, like `/user.slice/*`.
    pub cgroup: Option<String>,
    /// Against what, like `cpu=200%/1m,memory=4GiB`.
    #[serde(deserialize_with = "limits")]
    pub limits: Limits,
}

impl Watch {
    fn rule(&self) -> anyhow::Result<Rule> {
        let Watch { name, user, cgroup, limits } = self.clone();
        if name.is_none() && user.is_none() && cgroup.is_none() {
            bail!("a [[watch]] names no programs: give `name`, `user` or `cgroup`");
        }
        if limits.is_empty() {
            bail!("a [[watch]] has no limits: give some, like `limits = \"cpu=200%/1m\"`");
        }
        let unseen = limits.iter().find(|limit| !Rule::RESOURCES.contains(&limit.resource));
        if let Some(limit) = unseen {
            bail!(
                "`{limit}` cannot be watched of programs that Phantom did not start; \
                 cpu, memory, delay and disk can"
            );
        }
        Ok(Rule { name, user, cgroup, limits })
    }
}

fn limits<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Limits, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
}

fn stutter<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit>, D::Error> {
    let text = format!("stutter={}", String::deserialize(deserializer)?);
    let limits: Limits = text.parse().map_err(serde::de::Error::custom)?;
    Ok(limits.get(Resource::Stutter))
}

impl Config {
    /// Reads `file`; an absent default file means the defaults, an absent named one is an error.
    pub fn load(file: Option<&Path>) -> anyhow::Result<Self> {
        let path = file.unwrap_or(Path::new(DEFAULT_FILE));
        let mut config: Config = match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).with_context(|| {
                format!("{} cannot be read; mend the named line", path.display())
            })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => {
                Config::default()
            }
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        config.rules().with_context(|| format!("{} cannot be used", path.display()))?;
        if config.name.is_empty() {
            config.name = nix::unistd::gethostname()?.to_string_lossy().into_owned();
        }
        let well_formed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if config.name.len() > 63 || !config.name.bytes().all(well_formed) {
            bail!(
                "node name `{}` is not usable: letters, digits, `-`, `_` and `.`, at most 63; \
                 set `name` in {}",
                config.name,
                path.display()
            );
        }
        Ok(config)
    }

    /// The rules of `[[watch]]`.
    pub fn rules(&self) -> anyhow::Result<Vec<Rule>> {
        self.watch.iter().map(Watch::rule).collect()
    }

    /// What `[dns]` says.
    pub fn region(&self) -> RegionConfig {
        RegionConfig {
            servers: match self.dns.servers.is_empty() {
                true => Servers::System,
                false => Servers::Given(self.dns.servers.clone()),
            },
            key_file: self.dns.key.clone(),
            primary: self.dns.primary,
            hosts: self.dns.hosts.clone(),
        }
    }

    /// The socket of the local API.
    pub fn api_socket(&self) -> PathBuf {
        self.run_dir.join("api.sock")
    }

    /// The socket where shims ask for a stream to another node.
    pub fn switch_socket(&self) -> PathBuf {
        self.run_dir.join("switch.sock")
    }

    /// Where the daemon writes its process id.
    pub fn pid_file(&self) -> PathBuf {
        self.run_dir.join("daemon.pid")
    }

    /// Where a daemon started by `phantom up` logs.
    pub fn log_file(&self) -> PathBuf {
        self.state_dir.join("daemon.log")
    }

    /// Everything of the apps on this node.
    pub fn apps_dir(&self) -> PathBuf {
        self.run_dir.join("apps")
    }

    /// Where the guards of followed services are met.
    pub fn follow_dir(&self) -> PathBuf {
        self.run_dir.join("follow")
    }

    /// Everything of one app on this node.
    pub fn app_dir(&self, app: AppId) -> AppDir {
        AppDir(self.apps_dir().join(app.to_string()))
    }
}

/// The folder of one app on one node.
#[derive(Debug, Clone)]
pub struct AppDir(pub PathBuf);

impl AppDir {
    /// What the shim was started with.
    pub fn spec(&self) -> PathBuf {
        self.0.join("spec.json")
    }

    /// Where the daemon talks to the shim.
    pub fn control(&self) -> PathBuf {
        self.0.join("control.sock")
    }

    /// Where terminals attach; the only socket a user may open.
    pub fn attach(&self) -> PathBuf {
        self.0.join("attach.sock")
    }

    /// Where the daemon brings the terminal of the copy that runs elsewhere.
    pub fn terminal(&self) -> PathBuf {
        self.0.join("terminal.sock")
    }

    /// Where the file server listens while the app is away.
    pub fn files(&self) -> PathBuf {
        self.0.join("files.sock")
    }

    /// Where the image of one move lies.
    pub fn image(&self, id: phantom_model::MoveId) -> PathBuf {
        self.0.join(format!("image-{id}"))
    }

    /// Where the home's tree is shown while the app is a guest here.
    pub fn root(&self) -> PathBuf {
        self.0.join("root")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_key_is_named_with_its_line() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("phantom.toml");
        std::fs::write(&file, "name = \"a\"\nlisten_at = 3\n").unwrap();
        let error = format!("{:#}", Config::load(Some(&file)).unwrap_err());
        assert!(error.contains("listen_at") && error.contains("line 2"), "{error}");
        std::fs::write(&file, "name = \"two words\"").unwrap();
        assert!(Config::load(Some(&file)).is_err());
        std::fs::write(&file, "cache_max = \"1GiB\"").unwrap();
        assert_eq!(Config::load(Some(&file)).unwrap().cache_max, Bytes(1 << 30));
    }
}

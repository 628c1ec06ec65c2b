//! A network of desktops: a bridge in a network namespace of its own, and what a scenario does to
//! it.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use anyhow::{Context, bail};

use super::desktop::{Desktop, DesktopPlan};
use super::host::Host;
use super::{delivery, os};

/// The bridge.
const BRIDGE: &str = "br0";
/// The most desktops one network may have; each costs some 400 MiB of memory.
const MOST: u8 = 16;

/// How packets fare between any two desktops.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Link {
    /// Added to each way.
    pub delay_ms: u32,
    /// Packets that get lost, in percent.
    pub loss_percent: f64,
    /// The rate of each desktop's own link; as fast as can be when absent.
    pub rate_kbit: Option<u32>,
}

impl Link {
    /// What `tc` is told on a desktop's own link: half of the delay there, half at the other end.
    pub fn netem(&self) -> Option<String> {
        if *self == Self::default() {
            return None;
        }
        let mut words = format!("netem limit 1000 delay {}us", self.delay_ms * 500);
        if self.loss_percent > 0.0 {
            // Each packet passes two ends' queues, but netem works on the sender's only.
            words += &format!(" loss {}%", self.loss_percent);
        }
        if let Some(rate) = self.rate_kbit {
            words += &format!(" rate {rate}kbit");
        }
        Some(words)
    }
}

/// A network of desktops. All of it goes when the last of them does.
pub struct Lan {
    shared: Rc<Shared>,
}

/// What a network and its desktops hold together.
pub struct Shared {
    /// This machine.
    pub host: &'static Host,
    /// Its namespace.
    pub network: OwnedFd,
    /// For sockets, logs and disks.
    pub folder: tempfile::TempDir,
    /// What is delivered to every desktop.
    pub delivery: PathBuf,
    link: Cell<Link>,
    count: Cell<u8>,
}

impl Lan {
    /// An empty network, as good as can be.
    pub fn new() -> anyhow::Result<Self> {
        let host = Host::get()?;
        let folder = tempfile::Builder::new()
            .prefix("phantom-desktops-")
            .tempdir_in("/var/tmp")
            .context("cannot make a folder for desktops in /var/tmp")?;
        let delivery = folder.path().join("delivery.img");
        delivery::write(host, &delivery)?;
        Self::with_delivery(host, folder, delivery)
    }

    /// The network that a golden desktop is made in: nothing is delivered to it.
    pub fn of_golden(host: &'static Host) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("phantom-golden-").tempdir_in("/var/tmp")?;
        let delivery = folder.path().join("delivery.img");
        delivery::write_empty(&delivery)?;
        Self::with_delivery(host, folder, delivery)
    }

    /// What it holds together with its desktops.
    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    fn with_delivery(
        host: &'static Host,
        folder: tempfile::TempDir,
        delivery: PathBuf,
    ) -> anyhow::Result<Self> {
        let network = os::new_network().context("cannot make a network namespace")?;
        let (link, count) = (Cell::new(Link::default()), Cell::new(0));
        let shared = Rc::new(Shared { host, network, folder, delivery, link, count });
        shared.run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        shared.run("ip", &["link", "set", BRIDGE, "up"])?;
        shared.run("nft", &["add table bridge cut; add chain bridge cut forward { type filter hook forward priority 0; }"])?;
        Ok(Self { shared })
    }

    /// Packets take this long from one desktop to another.
    pub fn delay_ms(self, delay_ms: u32) -> Self {
        self.shared.link.set(Link { delay_ms, ..self.shared.link.get() });
        self
    }

    /// This part of them gets lost.
    pub fn loss_percent(self, loss_percent: f64) -> Self {
        self.shared.link.set(Link { loss_percent, ..self.shared.link.get() });
        self
    }

    /// Each desktop sends no faster than this.
    pub fn rate_kbit(self, rate_kbit: u32) -> Self {
        self.shared.link.set(Link { rate_kbit: Some(rate_kbit), ..self.shared.link.get() });
        self
    }

    /// A desktop to be started here.
    pub fn desktop(&self, name: &str) -> DesktopPlan {
        DesktopPlan::new(self.shared.clone(), name)
    }

    /// No packet passes between the two any more.
    pub fn cut(&self, a: &Desktop, b: &Desktop) -> anyhow::Result<()> {
        for (from, to) in [(a, b), (b, a)] {
            let rule = format!(
                "add rule bridge cut forward iifname {} oifname {} drop",
                from.tap(),
                to.tap()
            );
            self.shared.run("nft", &[&rule])?;
        }
        Ok(())
    }

    /// All cuts are mended.
    pub fn mend(&self) -> anyhow::Result<()> {
        self.shared.run("nft", &["flush chain bridge cut forward"])
    }
}

impl Shared {
    /// How packets fare here.
    pub fn link(&self) -> Link {
        self.link.get()
    }

    /// Makes a port of the bridge; its name and its number in this network, from 1.
    pub fn add_port(&self) -> anyhow::Result<(String, u8)> {
        let number = self.count.get() + 1;
        if number > MOST {
            bail!("more than {MOST} desktops in one network");
        }
        self.count.set(number);
        let tap = format!("tap{number}");
        self.run("ip", &["tuntap", "add", "dev", &tap, "mode", "tap"])?;
        self.run("ip", &["link", "set", &tap, "master", BRIDGE, "up"])?;
        Ok((tap, number))
    }

    /// Its folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(program);
        command.args(args);
        os::bind_to(&mut command, &self.network);
        let output = command.output().with_context(|| format!("cannot run `{program}`"))?;
        if !output.status.success() {
            let printed = String::from_utf8_lossy(&output.stderr);
            bail!("`{program} {}` failed: {}", args.join(" "), printed.trim());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_in_the_words_of_tc() {
        assert_eq!(Link::default().netem(), None);
        let slow = Link { delay_ms: 20, loss_percent: 0.5, rate_kbit: Some(1000) };
        let words = "netem limit 1000 delay 10000us loss 0.5% rate 1000kbit";
        assert_eq!(slow.netem().as_deref(), Some(words));
    }
}

//! The network of a capsule at home: a link pair between the host and the capsule, a small subnet
//! of its own, and address translation towards everything else. Away, a capsule has none.
//!
//! The addresses come from 100.64.0.0/10, which is meant for use behind a translator (RFC 6598);
//! those the host has a route for are avoided. IPv4 only. The rules are in an nftables table of
//! Phantom's own, which goes when the last capsule's network does; so does the forwarding of
//! packets where it was off before. A host whose other firewall tables drop forwarded packets
//! keeps doing so.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::process::{Command, Stdio};

use phantom_model::AppId;
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::os::netlink::{Netlink, Prefix};

/// The link's name inside.
const INSIDE_LINK: &str = "eth0";
/// Length of the prefix of a capsule's subnet: two hosts.
const SUBNET_LENGTH: u8 = 30;
const POOL: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 0);
const POOL_SUBNETS: u32 = 1 << 20;
/// How many candidates are tried before the pool counts as used up.
const TRIES: u32 = 4096;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// What every capsule shares. `add` leaves what is there as it is; the rules are made anew.
const TABLE: &str = "\
add table ip phantom
add set ip phantom sources { type ipv4_addr; flags interval; }
add set ip phantom links { type ifname; }
add chain ip phantom postrouting { type nat hook postrouting priority srcnat; policy accept; }
flush chain ip phantom postrouting
add rule ip phantom postrouting ip saddr @sources oifname != @links masquerade
add chain ip phantom forward { type filter hook forward priority filter; policy accept; }
flush chain ip phantom forward
add rule ip phantom forward iifname @links oifname @links drop
";
/// Stands in the table when forwarding was off before the first capsule.
const FORWARDING_WAS_OFF: &str = "forwarding_was_off";

/// The network of a capsule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The host's end of the link.
    pub link: String,
    /// The host's address on it, the capsule's gateway.
    pub host: Ipv4Addr,
    /// The capsule's address.
    pub app: Ipv4Addr,
}

impl Network {
    fn new(app: AppId, subnet: Ipv4Addr) -> Self {
        let base = u32::from(subnet);
        Self {
            link: format!("ph{}", app.short()),
            host: Ipv4Addr::from(base + 1),
            app: Ipv4Addr::from(base + 2),
        }
    }

    /// The subnet, as nft writes it.
    fn subnet(&self) -> String {
        format!("{}/{SUBNET_LENGTH}", Ipv4Addr::from(u32::from(self.host) - 1))
    }
}

/// Picks a free subnet for an app: always the same while the host's routes are.
fn pick(app: AppId, taken: &[Prefix]) -> Option<Ipv4Addr> {
    let mask = |length: u8| u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
    let overlaps = |subnet: u32| {
        taken.iter().any(|(address, length)| {
            let mask = mask(*length) & mask(SUBNET_LENGTH);
            subnet & mask == u32::from(*address) & mask
        })
    };
    // A multiplier spreads ids that differ little over the pool.
    let start = (app.0.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 44) as u32;
    (0..TRIES)
        .map(|step| start.wrapping_add(step.wrapping_mul(257)) % POOL_SUBNETS)
        .map(|index| u32::from(POOL) + index * 4)
        .find(|subnet| !overlaps(*subnet))
        .map(Ipv4Addr::from)
}

fn failed(action: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let action = action.into();
    move |source| Error::Network { action, source }
}

/// Gives the capsule with the network namespace `namespace` a network; `earlier` is the one it had
/// before, whose addresses it gets again where they are still free. Called again it changes
/// nothing. `lock` is a file that all shims of this host use: it keeps the shared table whole.
pub fn attach(
    namespace: BorrowedFd<'_>,
    app: AppId,
    earlier: Option<&Network>,
    lock: &Path,
) -> Result<Network, Error> {
    let _lock = take_lock(lock)?;
    let host = Netlink::here().map_err(failed("reach the kernel's routing"))?;
    let inside =
        Netlink::inside(namespace).map_err(failed("reach the routing of the app's network"))?;
    let name = format!("ph{}", app.short());
    let both = host
        .link_index(&name)
        .and_then(|outer| Ok(outer.is_some() && inside.link_index(INSIDE_LINK)?.is_some()))
        .map_err(failed("look for the app's link"))?;
    if let Some(earlier) = earlier
        && both
    {
        add_rules(earlier)?;
        return Ok(earlier.clone());
    }
    // A link of an attempt that was broken off.
    host.delete_link(&name).map_err(failed(format!("remove the link {name}")))?;
    let routes = host.routes().map_err(failed("list the host's routes"))?;
    let kept = earlier.map(|network| Ipv4Addr::from(u32::from(network.host).saturating_sub(1)));
    let free = |subnet: &Ipv4Addr| {
        routes
            .iter()
            .all(|(address, length)| *length < 8 || u32::from(*address) & !3 != u32::from(*subnet))
    };
    let subnet = kept.filter(free).or_else(|| pick(app, &routes)).ok_or_else(|| {
        failed("find free addresses in 100.64.0.0/10")(io::ErrorKind::AddrNotAvailable.into())
    })?;
    let network = Network::new(app, subnet);
    match connect(&host, &inside, namespace, &network).and_then(|()| add_rules(&network)) {
        Ok(()) => Ok(network),
        Err(error) => {
            // Half a network helps nobody.
            let _ = host.delete_link(&network.link);
            Err(error)
        }
    }
}

/// Takes the network away: only the loopback link stays. Fine when there is none. The kernel takes
/// some tens of milliseconds to let go of a link, so call it before the app is frozen.
pub fn detach(network: &Network, lock: &Path) -> Result<(), Error> {
    let _lock = take_lock(lock)?;
    let host = Netlink::here().map_err(failed("reach the kernel's routing"))?;
    host.delete_link(&network.link).map_err(failed(format!("remove the link {}", network.link)))?;
    remove_rules(network)
}

fn connect(
    host: &Netlink,
    inside: &Netlink,
    namespace: BorrowedFd<'_>,
    network: &Network,
) -> Result<(), Error> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    host.add_veth(&network.link, INSIDE_LINK, namespace)
        .map_err(failed("make a link pair for the app (does the kernel have veth?)"))?;
    let make = |netlink: &Netlink, name: &str, address: Ipv4Addr| -> io::Result<u32> {
        let index = netlink.link_index(name)?.ok_or_else(missing)?;
        netlink.add_address(index, (address, SUBNET_LENGTH))?;
        netlink.set_up(index)?;
        Ok(index)
    };
    make(host, &network.link, network.host)
        .map_err(failed(format!("set up the link {}", network.link)))?;
    make(inside, INSIDE_LINK, network.app)
        .and_then(|index| inside.add_default_route(index, network.host))
        .map_err(failed("set up the link inside the capsule"))
}

/// What the shared table knows of one capsule: in which set, and what.
fn elements(network: &Network) -> [(&'static str, String); 2] {
    [("sources", network.subnet()), ("links", format!("\"{}\"", network.link))]
}

fn add_rules(network: &Network) -> Result<(), Error> {
    let forwarding = || failed(format!("let packets through in {FORWARDING}"));
    let was_off = fs::read_to_string(FORWARDING).map_err(forwarding())?.trim() == "0";
    let mut script = TABLE.to_owned();
    if was_off {
        script += &format!("add set ip phantom {FORWARDING_WAS_OFF} {{ type ipv4_addr; }}\n");
    }
    for (set, element) in elements(network) {
        script += &format!("add element ip phantom {set} {{ {element} }}\n");
    }
    nft(&script)?;
    if was_off {
        fs::write(FORWARDING, "1").map_err(forwarding())?;
    }
    Ok(())
}

fn remove_rules(network: &Network) -> Result<(), Error> {
    // Neither the elements nor the table need be there.
    for (set, element) in elements(network) {
        let _ = nft(&format!("delete element ip phantom {set} {{ {element} }}\n"));
    }
    // Asked on its own: within one script a list shows what stood before.
    let Ok(table) = nft("list table ip phantom\n") else { return Ok(()) };
    if table.contains("elements") {
        return Ok(());
    }
    nft("delete table ip phantom\n")?;
    if table.contains(FORWARDING_WAS_OFF) {
        fs::write(FORWARDING, "0")
            .map_err(failed(format!("stop letting packets through in {FORWARDING}")))?;
    }
    Ok(())
}

/// Held until dropped.
fn take_lock(path: &Path) -> Result<nix::fcntl::Flock<File>, Error> {
    let wrong = || failed(format!("lock {}", path.display()));
    let file =
        File::options().create(true).truncate(false).write(true).open(path).map_err(wrong())?;
    nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusive)
        .map_err(|(_, errno)| wrong()(errno.into()))
}

/// Runs an nftables script; all of it happens or nothing. Its output.
fn nft(script: &str) -> Result<String, Error> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed("run `nft` (install the package nftables)"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(script.as_bytes()).map_err(failed("talk to `nft`"))?;
    }
    let output = child.wait_with_output().map_err(failed("wait for `nft`"))?;
    if !output.status.success() {
        let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed("load the address translation")(io::Error::other(reason)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_lie_in_the_pool_and_avoid_routes() {
        let app = AppId(0xdead_beef);
        let first = pick(app, &[]).unwrap();
        assert_eq!(first.octets()[0], 100);
        assert!((64..128).contains(&first.octets()[1]));
        assert_eq!(u32::from(first) % 4, 0);
        let second = pick(app, &[(first, 30)]).unwrap();
        assert_ne!(first, second);
        assert_ne!(pick(app, &[(Ipv4Addr::from(u32::from(first) + 2), 32)]).unwrap(), first);
        let wide = (Ipv4Addr::new(first.octets()[0], first.octets()[1], 0, 0), 16);
        assert_ne!(pick(app, &[wide]).map(|s| s.octets()[1]), Some(first.octets()[1]));
        assert_eq!(pick(app, &[(Ipv4Addr::new(100, 64, 0, 0), 10)]), None);
    }

    #[test]
    fn names_fit_the_kernel() {
        let network = Network::new(AppId(u64::MAX), Ipv4Addr::new(100, 64, 0, 4));
        assert!(network.link.len() < 16);
        assert_eq!(network.subnet(), "100.64.0.4/30");
        assert_eq!(network.app, Ipv4Addr::new(100, 64, 0, 6));
    }
}

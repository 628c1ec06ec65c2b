//! Give apps a network: devices and address translation, tried in a network namespace.

use std::io;
use std::process::Command;
use std::time::Duration;

use super::os::{command, network};
use super::{Ability, Finding, Probe, in_path, install};

const NFT_LIMIT: Duration = Duration::from_secs(30);

/// What the node loads for its capsules, in small: address translation and a drop rule.
const RULESET: &str = "table ip phantom_doctor {
    chain nat { type nat hook postrouting priority srcnat; policy accept; masquerade; }
    chain lock { type filter hook input priority filter; policy accept; meta mark != 0xc114 drop; }
}
";

pub fn probes() -> Vec<Probe> {
    vec![
        Probe::essential("veth", &[Ability::Network], veth),
        Probe::essential("nftables", &[Ability::Network], nftables),
        Probe::useful("TUN", &[Ability::Network], tun),
    ]
}

fn veth() -> Finding {
    match network::enter_new_namespace().and_then(|()| network::make_veth_pair()) {
        Ok(()) => Finding::ok("a pair of devices was made in a network namespace"),
        Err(error) => Finding::failed("make a veth pair", &error, "sudo modprobe veth"),
    }
}

/// Apps will keep their home's network through TUN devices; in this version their network ends
/// where they leave home, so that a missing TUN takes nothing away yet.
fn tun() -> Finding {
    let made = network::enter_new_namespace().and_then(|()| network::make_tun());
    match made {
        Ok(_) => Finding::ok("a device was made in a network namespace"),
        Err(error) => Finding::failed("make a TUN device", &error, "sudo modprobe tun"),
    }
}

fn nftables() -> Finding {
    let Some(nft) = in_path("nft") else {
        return Finding::missing("the program `nft` is not installed", install("nftables"));
    };
    let loaded = network::enter_new_namespace()
        .and_then(|()| command::run(Command::new(&nft).args(["-f", "-"]), RULESET, NFT_LIMIT));
    let remedy = "sudo modprobe -a nf_tables nft_chain_nat nft_masq";
    match loaded {
        Ok(outcome) if outcome.status.success() => {
            Finding::ok("a table was loaded in a network namespace")
        }
        Ok(outcome) => Finding::missing(
            format!(
                "{} cannot load a table: {}",
                nft.display(),
                command::first_line(&outcome.output)
            ),
            remedy,
        ),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Finding::missing(format!("{} did not end within 2 s", nft.display()), remedy)
        }
        Err(error) => Finding::failed("load a table with nft", &error, remedy),
    }
}

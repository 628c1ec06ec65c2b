//! The root of another distribution that the demo and the tests give their second node: Debian 13
//! made by mmdebstrap, once per machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{host, source};
use crate::command::{Cmd, Ended, tail};
use crate::digest;
use crate::say;
use crate::workspace::Workspace;

/// The release.
const RELEASE: &str = "trixie";
/// What is in it besides the smallest Debian: what a node calls and loads, and a Python of another
/// version than the first node's.
const PACKAGES: [&str; 6] = ["iproute2", "libelf1t64", "nftables", "procps", "python3", "zlib1g"];
/// What nobody reads there.
const WITHOUT: [&str; 4] = ["doc", "info", "locale", "man"];
/// Where roots are kept.
const CACHE: &str = "/var/cache/phantom/roots";
/// Changed when the way a root is made changes, so that old ones are not used.
const EDITION: &str = "1";
/// Room that making one takes.
const ROOM_MIB: u64 = 1024;

/// Where the root is, or will be.
pub fn path() -> Result<PathBuf> {
    let words = [&[EDITION, RELEASE], &PACKAGES[..], &WITHOUT[..]].concat().join(" ");
    let digest = digest::of_bytes(words.as_bytes())?;
    Ok(Path::new(CACHE).join(format!("{RELEASE}-{}", &digest[..12])))
}

/// Whether it is there. The folder gets its name last, so its name says that it is whole.
pub fn exists(path: &Path) -> bool {
    path.is_dir()
}

/// One line about what will be done.
pub fn intention(path: &Path) -> String {
    format!("makes a Debian 13 root of about 130 MiB for the second node in {}", path.display())
}

/// Makes the root at `path`.
pub fn build(workspace: &Workspace, path: &Path) -> Result<()> {
    host::room(path, ROOM_MIB)?;
    let mirror = host::archive()?;
    let keys =
        source::keyring().context("Debian's keys are missing: install debian-archive-keyring")?;
    let log = workspace.log("second-root")?;
    let fresh = path.with_extension("new");
    Cmd::new("rm").arg("-rf").arg(&fresh).rooted().quiet()?;
    Cmd::new("install").args(["-d", "-m", "755", CACHE]).rooted().quiet()?;
    let mut cmd = Cmd::new("mmdebstrap")
        .args(["--mode=root", "--variant=minbase", "--format=directory"])
        .arg(format!("--keyring={}", keys.display()))
        .arg(format!("--include={}", PACKAGES.join(",")));
    for setting in host::shared_apt_settings()? {
        cmd = cmd.arg(format!("--aptopt={setting}"));
    }
    for folder in WITHOUT {
        cmd = cmd.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    let text = "making the second node's root (Debian 13, about a minute)";
    let (ended, took) = cmd
        .arg(RELEASE)
        .arg(&fresh)
        .arg(&mirror)
        .rooted()
        .limit(Duration::from_secs(1800))
        .logged(&log, text)?;
    if ended != Ended::Ok {
        let printed = tail(&log);
        bail!("mmdebstrap failed: {}\nThe end of {}:\n{printed}", advice(&printed), log.display());
    }
    Cmd::new("mv").arg("-T").arg(&fresh).arg(path).rooted().quiet()?;
    say::ok(format!("Debian 13 root made in {}", say::duration(took)));
    Ok(())
}

/// What to do about a failed mmdebstrap, from what it printed.
fn advice(printed: &str) -> &'static str {
    let says = |needle: &str| printed.contains(needle);
    if says("404") || says("does not have a Release file") {
        "the archive apt is configured for has no Debian 13 (trixie); set PHANTOM_MIRROR to one \
         that has"
    } else if says("NO_PUBKEY") || says("not available") && says("signature") {
        "this system's debian-archive-keyring does not know Debian 13: upgrade that package"
    } else if says("resolve") || says("Could not connect") {
        "the archive cannot be reached: check the network"
    } else if says("No space left") {
        "no room in /var: free about 1 GiB"
    } else {
        "see what it printed, mend it, and run this again"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_stable() {
        assert_eq!(path().unwrap(), path().unwrap());
        assert!(path().unwrap().starts_with(CACHE));
    }

    #[test]
    fn advice_names_the_cause() {
        assert!(advice("E: The repository does not have a Release file.").contains("trixie"));
        assert!(advice("NO_PUBKEY 6ED0E7B82643E131").contains("keyring"));
        assert!(advice("write: No space left on device").contains("room"));
    }
}

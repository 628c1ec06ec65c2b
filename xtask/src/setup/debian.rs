//! Debian roots by mmdebstrap: what the second node's root and the desktops' images have in common.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{host, source};
use crate::command::{Cmd, Ended, tail};
use crate::digest;
use crate::workspace::Workspace;

/// What nobody reads in a root that is made here.
const WITHOUT: [&str; 4] = ["doc", "info", "locale", "man"];
/// What making a root needs on this machine.
pub const PACKAGES: [&str; 2] = ["mmdebstrap", "debian-archive-keyring"];

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Release {
    /// As the archive names it.
    pub codename: &'static str,
    /// As people name it.
    pub number: u32,
}

/// Debian 12.
pub const BOOKWORM: Release = Release { codename: "bookworm", number: 12 };
/// Debian 13.
pub const TRIXIE: Release = Release { codename: "trixie", number: 13 };

/// What a root consists of.
#[derive(Debug, Clone, Copy)]
pub struct Recipe {
    /// Changed when the way such a root is made changes, so that old ones are not used.
    pub edition: &'static str,
    /// The release.
    pub release: Release,
    /// What is in it besides the smallest Debian.
    pub packages: &'static [&'static str],
    /// A shell script that gets the root's path when the packages are in; may be empty.
    pub customize: &'static str,
}

impl Recipe {
    /// Twelve digits that change with the recipe.
    pub fn digest(&self) -> Result<String> {
        let first = [self.edition, self.release.codename];
        let mut words = [&first, self.packages, &WITHOUT[..]].concat();
        if !self.customize.is_empty() {
            words.push(self.customize);
        }
        let mut digest = digest::of_bytes(words.join(" ").as_bytes())?;
        digest.truncate(12);
        Ok(digest)
    }

    /// Makes the root at `to`, removing what an interrupted run left there.
    pub fn make(&self, workspace: &Workspace, to: &Path, what: &str) -> Result<Duration> {
        let mirror = host::archive()?;
        let keys = source::keyring()
            .context("Debian's keys are missing: install debian-archive-keyring")?;
        let log = workspace.log(&format!("mmdebstrap-{}", self.release.codename))?;
        remove(to)?;
        // In namespaces of its own: however it ends, no mount is left in the root. Whoever kills us
        // kills all of it, so that nothing writes there when the next run clears it away.
        let mut cmd = Cmd::new("setpriv")
            .args(["--pdeathsig", "KILL", "unshare", "--mount", "--propagation", "private"])
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--", "mmdebstrap"])
            .args(["--mode=root", "--variant=minbase", "--format=directory"])
            .arg(format!("--keyring={}", keys.display()))
            .arg(format!("--include={}", self.packages.join(",")));
        for setting in host::shared_apt_settings()? {
            cmd = cmd.arg(format!("--aptopt={setting}"));
        }
        for folder in WITHOUT {
            cmd = cmd.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
        }
        if !self.customize.is_empty() {
            cmd = cmd.arg(format!("--customize-hook={}", self.customize));
        }
        let text = format!("making {what} (Debian {}, about a minute)", self.release.number);
        let (ended, took) = cmd
            .arg(self.release.codename)
            .arg(to)
            .arg(&mirror)
            .rooted()
            .limit(Duration::from_secs(1800))
            .logged(&log, &text)?;
        if ended != Ended::Ok {
            let printed = tail(&log);
            let advice = advice(&printed, self.release);
            bail!("mmdebstrap failed: {advice}\nThe end of {}:\n{printed}", log.display());
        }
        Ok(took)
    }
}

/// Removes a root and what is beside it, but never through a mount.
pub fn remove(path: &Path) -> Result<()> {
    Cmd::new("rm").args(["-rf", "--one-file-system"]).arg(path).rooted().quiet()
}

/// What to do about a failed mmdebstrap, from what it printed.
fn advice(printed: &str, release: Release) -> String {
    let Release { codename, number } = release;
    let says = |needle: &str| printed.contains(needle);
    if says("404") || says("does not have a Release file") {
        format!(
            "the archive apt is configured for has no Debian {number} ({codename}); set \
             PHANTOM_MIRROR to one that has"
        )
    } else if says("NO_PUBKEY") || says("not available") && says("signature") {
        format!(
            "this system's debian-archive-keyring does not know Debian {number}: upgrade that \
             package"
        )
    } else if says("resolve") || says("Temporary failure") || says("Could not connect") {
        "the archive cannot be reached: check the network".to_owned()
    } else if says("No space left") {
        "no room in /var: free about 2 GiB".to_owned()
    } else {
        "see what it printed, mend it, and run this again".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: Recipe =
        Recipe { edition: "1", release: TRIXIE, packages: &["vim"], customize: "" };

    #[test]
    fn the_digest_covers_the_recipe() {
        let digest = RECIPE.digest().unwrap();
        assert_eq!((digest.len(), &digest), (12, &RECIPE.digest().unwrap()));
        for other in [
            Recipe { edition: "2", ..RECIPE },
            Recipe { release: BOOKWORM, ..RECIPE },
            Recipe { packages: &["vim", "less"], ..RECIPE },
            Recipe { customize: "true", ..RECIPE },
        ] {
            assert_ne!(other.digest().unwrap(), digest, "{other:?}");
        }
    }

    #[test]
    fn advice_names_the_cause() {
        let lacks = "E: The repository does not have a Release file.";
        assert!(advice(lacks, TRIXIE).contains("Debian 13 (trixie)"));
        assert!(advice(lacks, BOOKWORM).contains("Debian 12 (bookworm)"));
        assert!(advice("NO_PUBKEY 6ED0E7B82643E131", TRIXIE).contains("keyring"));
        assert!(advice("write: No space left on device", TRIXIE).contains("room"));
        assert!(advice("Temporary failure resolving 'x'", TRIXIE).contains("network"));
    }
}

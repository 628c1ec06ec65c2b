//! The root of another distribution that the demo and the tests give their second node: Debian 13
//! made by mmdebstrap, once per machine.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::debian::{self, Recipe};
use super::host;
use crate::command::Cmd;
use crate::say;
use crate::workspace::Workspace;

/// What a node calls and loads, and a Python of another version than the first node's.
const RECIPE: Recipe = Recipe {
    edition: "1",
    release: debian::TRIXIE,
    packages: &["iproute2", "libelf1t64", "nftables", "procps", "python3", "zlib1g"],
    customize: "",
};
/// Where roots are kept.
const CACHE: &str = "/var/cache/phantom/roots";
/// Room that making one takes.
const ROOM_MIB: u64 = 1024;

/// Where the root is, or will be.
pub fn path() -> Result<PathBuf> {
    let name = format!("{}-{}", RECIPE.release.codename, RECIPE.digest()?);
    Ok(Path::new(CACHE).join(name))
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
    let fresh = path.with_extension("new");
    Cmd::new("install").args(["-d", "-m", "755", CACHE]).rooted().quiet()?;
    let took = RECIPE.make(workspace, &fresh, "the second node's root")?;
    Cmd::new("mv").arg("-T").arg(&fresh).arg(path).rooted().quiet()?;
    say::ok(format!("Debian 13 root made in {}", say::duration(took)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_stable() {
        assert_eq!(path().unwrap(), path().unwrap());
        assert!(path().unwrap().starts_with(CACHE));
    }
}

//! The source of CRIU from the Debian archive.
//!
//! First the files the recipe names, checked against its digests. When the archive has none of
//! them any more, because a newer version took their place, the newer one is looked up in the
//! archive's own index of sources: apt checks that index's signature against Debian's keys, and
//! the file against the digest the index gives.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::recipe::Recipe;
use super::{host, version};
use crate::command::{Cmd, Ended, tail};
use crate::digest;
use crate::say;

/// apt's own downloader: it knows apt's proxies and needs no other program.
const HELPER: &str = "/usr/lib/apt/apt-helper";

/// A checked source.
pub struct Source {
    /// The file.
    pub archive: PathBuf,
    /// The version it is.
    pub version: String,
}

/// Puts a checked source into `dir`.
pub fn get(recipe: &Recipe, dir: &Path, log: &Path) -> Result<Source> {
    let archive = dir.join("criu.tar");
    if let Some(own) = std::env::var_os("PHANTOM_CRIU_SOURCE") {
        std::fs::copy(&own, &archive)
            .with_context(|| format!("copying PHANTOM_CRIU_SOURCE ({})", own.display()))?;
        return checked(recipe, archive);
    }
    let mirror = host::archive()?;
    for path in &recipe.pool_paths {
        if download(&format!("{mirror}{path}"), &archive, log)? {
            return checked(recipe, archive);
        }
    }
    say::note(format!("the archive no longer has CRIU {}: asking it for a newer", recipe.version));
    newer(recipe, &mirror, dir, log)
}

/// Accepts a file whose digest the recipe knows.
fn checked(recipe: &Recipe, archive: PathBuf) -> Result<Source> {
    let found = digest::of_file(&archive)?;
    if !recipe.knows(&found) {
        bail!(
            "the CRIU source has the SHA-256 digest {found}, which xtask/criu/recipe.toml does not \
             list: it is not used. A mirror that changes files is broken or hostile; set \
             PHANTOM_MIRROR to another one"
        );
    }
    Ok(Source { archive, version: recipe.version.clone() })
}

/// Fetches a file; false when the archive does not have it.
fn download(uri: &str, to: &Path, log: &Path) -> Result<bool> {
    let (ended, _) = Cmd::new(HELPER)
        .args(["-o", "Acquire::Retries=3", "download-file", uri])
        .arg(to)
        .logged(log, "fetching the source of CRIU")?;
    if ended == Ended::Ok && to.exists() {
        return Ok(true);
    }
    let printed = tail(log);
    if printed.contains("404") {
        return Ok(false);
    }
    bail!(
        "cannot fetch {uri}: check the network, or fetch it elsewhere and set \
         PHANTOM_CRIU_SOURCE to the file\n{printed}"
    );
}

/// Finds the version in the archive's signed index of sources, and fetches that.
fn newer(recipe: &Recipe, mirror: &str, dir: &Path, log: &Path) -> Result<Source> {
    let keys = keyring().context("Debian's keys are missing: install debian-archive-keyring")?;
    let apt = dir.join("apt");
    for folder in ["lists/partial", "cache/archives/partial"] {
        let folder = apt.join(folder);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
    }
    let list = apt.join("sources.list");
    std::fs::write(&list, format!("deb-src [signed-by={}] {mirror} sid main\n", keys.display()))
        .with_context(|| format!("writing {}", list.display()))?;
    let private = |words: &[&str]| {
        Cmd::new("apt-get")
            .arg("-q")
            .arg("-o")
            .arg(format!("Dir::State::Lists={}", apt.join("lists").display()))
            .arg("-o")
            .arg(format!("Dir::Cache={}", apt.join("cache").display()))
            .arg("-o")
            .arg(format!("Dir::Etc::SourceList={}", list.display()))
            .args(["-o", "Dir::Etc::SourceParts=-"])
            .args(words)
    };
    private(&["update"]).must(log, "fetching the archive's index of sources")?;
    let printed = private(&["source", "--print-uris", "--only-source", "criu"]).stdout()?;
    let (uri, sha256, found) =
        parse_uris(&printed).context("the archive's index of sources names no source of CRIU")?;
    if !version::at_least(&found, &recipe.minimum) {
        bail!("the archive's CRIU is {found}, {} is needed: set PHANTOM_MIRROR", recipe.minimum);
    }
    let archive = dir.join("criu.tar");
    if !download(&uri, &archive, log)? {
        bail!("the archive names {uri} but does not have it: set PHANTOM_MIRROR to another one");
    }
    let digest = digest::of_file(&archive)?;
    if digest != sha256 {
        bail!("{uri} has the SHA-256 digest {digest}, the archive's signed index says {sha256}");
    }
    say::note(format!("CRIU {found}: checked by the archive's signed index of sources"));
    Ok(Source { archive, version: found })
}

/// Address, digest and version of the upstream source among lines of `apt-get source
/// --print-uris`: `'URI' criu_4.2.1.orig.tar.xz 1038700 SHA256:29ec…`.
fn parse_uris(printed: &str) -> Option<(String, String, String)> {
    printed.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        let uri = words.next()?.strip_prefix('\'')?.strip_suffix('\'')?;
        let name = words.next()?;
        let version = name.strip_prefix("criu_")?.split_once(".orig.tar.")?.0;
        let sha256 = words.nth(1)?.strip_prefix("SHA256:")?;
        // The version becomes a folder's name.
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '~';
        (!name.ends_with(".asc") && version.chars().all(plain) && !version.contains(".."))
            .then(|| (uri.to_owned(), sha256.to_owned(), version.to_owned()))
    })
}

/// The file of Debian's archive keys.
pub fn keyring() -> Option<PathBuf> {
    ["debian-archive-keyring.pgp", "debian-archive-keyring.gpg"]
        .map(|name| Path::new("/usr/share/keyrings").join(name))
        .into_iter()
        .find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_upstream_source_is_found_among_uris() {
        let printed = "Reading package lists...\n\
            'http://m/pool/main/c/criu/criu_4.3-1.dsc' criu_4.3-1.dsc 2901 SHA256:9286\n\
            'http://m/pool/main/c/criu/criu_4.3.orig.tar.xz.asc' criu_4.3.orig.tar.xz.asc 8 SHA256:11\n\
            'http://m/pool/main/c/criu/criu_4.3.orig.tar.xz' criu_4.3.orig.tar.xz 1038700 SHA256:29ec\n";
        let expected =
            ("http://m/pool/main/c/criu/criu_4.3.orig.tar.xz".into(), "29ec".into(), "4.3".into());
        assert_eq!(parse_uris(printed), Some(expected));
    }

    #[test]
    fn hostile_uris_are_ignored() {
        assert_eq!(parse_uris("'u' criu_../../x.orig.tar.xz 1 SHA256:1"), None);
        assert_eq!(parse_uris("'u' criu_4.3.orig.tar.xz 1"), None);
        assert_eq!(parse_uris("' criu_"), None);
    }

    #[test]
    fn a_wrong_digest_is_refused() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu");
        let (recipe, _) = Recipe::load(&dir).unwrap();
        let error = checked(&recipe, dir.join("recipe.toml")).err().unwrap();
        assert!(error.to_string().contains("not used"), "{error}");
    }
}

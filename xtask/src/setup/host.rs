//! The machine: its distribution, its compiler, its room, and the archive its apt is told to use.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::command::Cmd;

/// Debian releases that are tried and tested, as `VERSION_ID` names them.
const SUPPORTED: [&str; 2] = ["12", "13"];

/// What `/etc/os-release` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distribution {
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    pub name: String,
    /// Such as `12`.
    pub version: String,
}

/// Reads the distribution and refuses one that set-up does not know.
pub fn distribution() -> Result<Distribution> {
    let text = std::fs::read_to_string("/etc/os-release").context("reading /etc/os-release")?;
    let found = parse_os_release(&text)?;
    if !Path::new("/usr/bin/apt-get").exists() {
        bail!("no apt-get here ({}): set-up knows Debian 12 and 13", found.name);
    }
    Ok(found)
}

fn parse_os_release(text: &str) -> Result<Distribution> {
    let field = |name: &str| {
        text.lines()
            .filter_map(|line| line.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.trim_matches(['"', '\'']).to_owned())
    };
    let name = field("PRETTY_NAME").unwrap_or_else(|| "an unknown system".to_owned());
    let version = field("VERSION_ID").unwrap_or_default();
    if field("ID").as_deref() != Some("debian") || !SUPPORTED.contains(&version.as_str()) {
        bail!(
            "set-up knows Debian 12 and 13, this is {name}. By hand: install the packages that \
             xtask/src/setup/packages.rs lists and build CRIU as xtask/criu/README.md says"
        );
    }
    Ok(Distribution { name, version })
}

/// The compiler's version; fails when it is older than the workspace needs.
pub fn rust(needed: &str) -> Result<String> {
    let text = Cmd::new("rustc").arg("--version").stdout().context("asking rustc its version")?;
    let version = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    if super::version::at_least(&version, needed) {
        return Ok(version);
    }
    bail!(
        "Rust {version} is too old, {needed} is needed: `rustup update stable`, or install rustup \
         (https://rustup.rs) beside the distribution's own Rust"
    )
}

/// Fails when the file system of `path` has less than `needed_mib` free.
pub fn room(path: &Path, needed_mib: u64) -> Result<()> {
    let mut existing = path;
    while !existing.exists() {
        existing = existing.parent().unwrap_or(Path::new("/"));
    }
    let stat = nix::sys::statvfs::statvfs(existing)
        .with_context(|| format!("asking for the room in {}", existing.display()))?;
    let free_mib = stat.blocks_available() * stat.fragment_size() / (1 << 20);
    if free_mib < needed_mib {
        bail!(
            "{} has {free_mib} MiB free, {needed_mib} MiB are needed: make room, or point \
             CARGO_TARGET_DIR elsewhere when it is the build that does not fit",
            existing.display()
        );
    }
    Ok(())
}

/// The address of the Debian archive this machine uses, ending in `/`.
pub fn archive() -> Result<String> {
    if let Ok(chosen) = std::env::var("PHANTOM_MIRROR") {
        return Ok(with_slash(&chosen));
    }
    let text = Cmd::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(REPO_URI) $(CODENAME) $(COMPONENT)",
            "Created-By: Packages",
        ])
        .stdout()
        .context("asking apt for its sources")?;
    choose_archive(&text).context(
        "apt has no Debian archive among its sources: add one to /etc/apt/sources.list, or set \
         PHANTOM_MIRROR to the address of one",
    )
}

/// The first source that is the main archive: not security, not a third party's.
fn choose_archive(targets: &str) -> Option<String> {
    targets
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            Some((words.next()?, words.next()?, words.next()?))
        })
        .find(|(uri, codename, component)| {
            *component == "main"
                && !codename.contains('-')
                && !uri.contains("security")
                && ["bookworm", "trixie"].contains(codename)
        })
        .map(|(uri, _, _)| with_slash(uri))
}

fn with_slash(uri: &str) -> String {
    format!("{}/", uri.trim_end_matches('/'))
}

/// apt's own settings that a private apt (in a new root, or for another release) must share:
/// proxies and what to think of dates.
pub fn shared_apt_settings() -> Result<Vec<String>> {
    let text =
        Cmd::new("apt-config").arg("dump").stdout().context("asking apt for its settings")?;
    Ok(choose_settings(&text))
}

fn choose_settings(dump: &str) -> Vec<String> {
    let wanted = ["Acquire::Check-Valid-Until", "Acquire::Check-Date"];
    dump.lines()
        .filter(|line| {
            let key = line.split_whitespace().next().unwrap_or_default();
            let empty = line.ends_with("\"\";");
            !empty
                && (wanted.contains(&key)
                    || key.starts_with("Acquire::http::")
                    || key.starts_with("Acquire::https::"))
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_is_known_and_others_are_named() {
        let debian =
            "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n";
        assert_eq!(parse_os_release(debian).unwrap().version, "12");
        let fedora = "PRETTY_NAME=\"Fedora 43\"\nVERSION_ID=43\nID=fedora\n";
        assert!(parse_os_release(fedora).unwrap_err().to_string().contains("Fedora 43"));
        let old = "PRETTY_NAME=\"Debian 11\"\nVERSION_ID=\"11\"\nID=debian\n";
        assert!(parse_os_release(old).is_err());
        assert!(parse_os_release("").is_err());
    }

    #[test]
    fn the_main_archive_is_chosen() {
        let targets = "https://example.com/apt nodistro main\n\
                       http://mirror.example/debian-security bookworm-security main\n\
                       http://mirror.example/debian bookworm-updates main\n\
                       http://mirror.example/debian bookworm main\n";
        assert_eq!(choose_archive(targets).as_deref(), Some("http://mirror.example/debian/"));
        assert_eq!(choose_archive(""), None);
    }

    #[test]
    fn proxies_are_shared_and_paths_are_not() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p:3142\";\n\
                    Acquire::https::Proxy \"\";\nAcquire::Check-Valid-Until \"false\";\n\
                    Dir::State \"var/lib/apt\";\n";
        assert_eq!(
            choose_settings(dump),
            ["Acquire::http::Proxy \"http://p:3142\";", "Acquire::Check-Valid-Until \"false\";"]
        );
    }
}

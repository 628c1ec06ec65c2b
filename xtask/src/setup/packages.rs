//! Debian packages: which are needed, which are missing, and how they are installed.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::recipe::Recipe;
use crate::command::{Cmd, Ended, tail};
use crate::say;
use crate::workspace::Workspace;

/// What Phantom is compiled with: the kernel programs want clang, their loader libelf and zlib.
const BUILD: [&str; 6] = ["clang", "gcc", "libelf-dev", "make", "pkg-config", "zlib1g-dev"];
/// What a running node calls.
const RUN: [&str; 2] = ["iproute2", "nftables"];
/// What the demo and the tests run as programs of a user, and look with.
const TRY: [&str; 8] = ["bindfs", "bpftool", "less", "procps", "python3", "sqlite3", "tmux", "vim"];
/// What tests run as a server: regions find each other in the DNS, which is tested against BIND.
const SERVE: [&str; 1] = ["bind9"];

/// How long another program may hold apt's locks.
const LOCK_WAIT: Duration = Duration::from_secs(300);

/// All packages that must be there: those of a build of CRIU only when it is to be built, and
/// `more` for what else is to be made.
pub fn needed(recipe: &Recipe, build_criu: bool, more: &[&str]) -> Vec<String> {
    let fixed = BUILD.iter().chain(&RUN).chain(&TRY).chain(&SERVE);
    let mut all: Vec<String> = fixed.chain(more).map(|&name| name.to_owned()).collect();
    all.extend(recipe.runtime_apt_packages.iter().cloned());
    if build_criu {
        all.extend(recipe.apt_packages.iter().cloned());
    }
    all.sort();
    all.dedup();
    all
}

/// Those of `wanted` that are not installed.
pub fn missing(wanted: &[String]) -> Result<Vec<String>> {
    // dpkg-query fails when it does not know one of the names, and still prints the others.
    let printed = Cmd::new("sh")
        .args(["-c", "dpkg-query -W -f '${Package} ${db:Status-Abbrev}\\n' \"$@\" 2>/dev/null; :"])
        .arg("dpkg-query")
        .args(wanted)
        .stdout()?;
    let installed = parse_installed(&printed);
    Ok(wanted.iter().filter(|name| !installed.contains(&name.as_str())).cloned().collect())
}

fn parse_installed(printed: &str) -> Vec<&str> {
    printed
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, status)| status.trim_end() == "ii" || status.trim_end() == "hi")
        .map(|(name, _)| name)
        .collect()
}

/// Those of `wanted` that apt would remove to install `missing`, because their versions conflict:
/// they are to be installed anew. Knows of none while there are no package lists.
///
/// # Errors
/// When a package that Phantom does not need would be removed.
pub fn replaced(wanted: &[String], missing: &[String]) -> Result<Vec<String>> {
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let simulated = Cmd::new("apt-get")
        .args(["--simulate", "-q", "install", "--no-install-recommends"])
        .args(missing);
    let Ok(printed) = simulated.stdout() else { return Ok(Vec::new()) };
    let (replaced, others): (Vec<_>, Vec<_>) =
        parse_removed(&printed).partition(|name| wanted.contains(name));
    if !others.is_empty() {
        let (missing, others) = (missing.join(" "), others.join(" "));
        bail!(
            "installing {missing} would remove {others}, which nothing here may decide: run \
             `apt-get install --no-install-recommends {missing}` yourself if you can do without"
        );
    }
    Ok(replaced)
}

/// The packages in lines like `Remv vim [2:9.0]`.
fn parse_removed(printed: &str) -> impl Iterator<Item = String> {
    let names = printed.lines().filter_map(|line| line.strip_prefix("Remv "));
    names.filter_map(|rest| rest.split_whitespace().next()).map(str::to_owned)
}

/// The command that installs `packages`.
fn install_command(packages: &[String]) -> Cmd {
    apt(&["install", "-y", "--no-install-recommends", "--no-remove"]).args(packages)
}

fn apt(arguments: &[&str]) -> Cmd {
    Cmd::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .rooted()
        .limit(Duration::from_secs(1800))
}

/// Takes packages off that are in the way of others and installed anew with them.
pub fn remove(workspace: &Workspace, packages: &[String]) -> Result<()> {
    let log = workspace.log("apt")?;
    let command = apt(&["remove", "-y"]).args(packages);
    let (ended, _) = wait_for_lock(&command, &log, "removing what is in the way")?;
    if ended != Ended::Ok {
        bail!("`{}` failed: {}\n{}", command.shown(), advice(&tail(&log)), tail(&log));
    }
    Ok(())
}

/// Installs `packages`. The package lists are fetched first only when there are none, or when
/// those that are there turn out to be too old.
pub fn install(workspace: &Workspace, packages: &[String]) -> Result<()> {
    let log = workspace.log("apt")?;
    let text = format!("installing {} packages", packages.len());
    let have_lists = Cmd::new("apt-cache").arg("show").arg(&packages[0]).succeeds();
    if have_lists {
        let (ended, took) = wait_for_lock(&install_command(packages), &log, &text)?;
        if ended == Ended::Ok {
            say::ok(format!("{text}: done in {}", say::duration(took)));
            return keep_off(packages);
        }
        say::note("the package lists may be old: fetching them and trying again");
    }
    let (ended, _) = wait_for_lock(&apt(&["update"]), &log, "apt-get update")?;
    if ended != Ended::Ok {
        bail!("apt-get update failed: {}\n{}", advice(&tail(&log)), tail(&log));
    }
    let command = install_command(packages);
    let (ended, took) = wait_for_lock(&command, &log, &text)?;
    if ended != Ended::Ok {
        bail!("`{}` failed: {}\n{}", command.shown(), advice(&tail(&log)), tail(&log));
    }
    say::ok(format!("{text}: done in {}", say::duration(took)));
    keep_off(packages)
}

/// Debian starts a server when it is installed, and at every boot; the tests start their own.
fn keep_off(installed: &[String]) -> Result<()> {
    let brings = installed.iter().any(|name| SERVE.contains(&name.as_str()));
    if brings && std::path::Path::new("/run/systemd/system").is_dir() {
        Cmd::new("systemctl").args(["disable", "--now", "named.service"]).rooted().stdout()?;
        say::note("the name server that came with bind9 is switched off: only tests use it");
    }
    Ok(())
}

/// Runs an apt command again while another program holds apt's locks: `DPkg::Lock::Timeout`
/// covers dpkg's lock but not the one on the package lists.
fn wait_for_lock(cmd: &Cmd, log: &std::path::Path, text: &str) -> Result<(Ended, Duration)> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let (ended, took) = cmd.logged(log, text)?;
        let locked = ended != Ended::Ok && tail(log).contains("Could not get lock");
        if !locked || Instant::now() >= deadline {
            return Ok((ended, took));
        }
        say::note("another program holds apt's lock: waiting for it");
        // apt offers nothing to wait on for this lock.
        std::thread::sleep(Duration::from_secs(5));
    }
}

/// What to do about a failed apt, from what it printed.
fn advice(printed: &str) -> &'static str {
    let says = |needle: &str| printed.contains(needle);
    if says("Could not get lock") || says("Unable to acquire") {
        "another program holds apt's lock; wait for it to end and run this again"
    } else if says("Could not resolve") || says("Temporary failure") || says("Could not connect") {
        "the archive cannot be reached; check the network and the addresses in /etc/apt"
    } else if says("Unable to locate") || says("no installation candidate") {
        "the archive lacks a package; check that /etc/apt names the `main` component of your release"
    } else if says("remove is disabled") {
        "other packages are in the way; install these by hand if you can do without the others"
    } else if says("No space left") || says("enough free space") {
        "no room; free some space and run this again"
    } else if says("dpkg was interrupted") {
        "run `dpkg --configure -a` as root, then this again"
    } else {
        "see what apt printed, mend it, and run this again"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let printed = "bash ii \nvim rc \nclang un \nless hi \n";
        assert_eq!(parse_installed(printed), ["bash", "less"]);
    }

    #[test]
    fn what_apt_would_remove_is_found() {
        let printed = "Reading state...\nRemv qemu-utils [1:10.0.2]\nInst qemu-system (1:7.2)\n";
        assert_eq!(parse_removed(printed).collect::<Vec<_>>(), ["qemu-utils"]);
    }

    #[test]
    fn advice_names_the_cause() {
        assert!(advice("E: Could not get lock /var/lib").contains("lock"));
        assert!(advice("Temporary failure resolving 'x'").contains("network"));
        assert!(advice("E: Unable to locate package y").contains("main"));
        assert!(advice("?").contains("again"));
    }

    #[test]
    fn a_name_nobody_has_is_missing() {
        let wanted = vec!["coreutils".to_owned(), "no-such-package-here".to_owned()];
        assert_eq!(missing(&wanted).unwrap(), ["no-such-package-here"]);
    }
}

//! Move apps away: CRIU and what it asks of the kernel.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use phantom_model::Bytes;

use super::os::{command, memory};
use super::{Ability, Finding, Hooks, Places, Probe, in_path, is_program, plain};

/// Where Phantom's set-up puts the CRIU it builds.
const BUILT_CRIU: &str = "/usr/local/lib/phantom/criu/criu";
const CRIU_REMEDY: &str = "cargo xtask setup (builds CRIU once for this machine)";
const VERSION_WANTED: (u32, u32) = (4, 2);
const VERSION_LIMIT: Duration = Duration::from_secs(2);
const STOCK_KERNEL: &str = "boot a stock kernel of your distribution";

pub fn probes(places: &Places, hooks: &Hooks) -> Vec<Probe> {
    const BOTH: &[Ability] = &[Ability::Move, Ability::Host];
    let mut probes = Vec::new();
    match find_criu(places.criu.as_deref()) {
        Err(why) => probes.push(Probe::new("CRIU", BOTH, || {
            Finding::missing(why, CRIU_REMEDY)
        })),
        Ok(criu) => {
            let path = criu.clone();
            probes.push(Probe::new("CRIU", BOTH, move || criu_version(&path)));
            if let Some(canary) = hooks.canary.clone() {
                let path = criu.clone();
                probes.push(Probe::new("CRIU canary", BOTH, move || {
                    match canary(&path) {
                        Ok(found) => Finding::ok(found),
                        Err(why) => Finding::missing(why, CRIU_REMEDY),
                    }
                }));
            }
            if let Some(tell) = hooks.job_control.clone() {
                let path = criu;
                probes.push(Probe::new("CRIU job control", BOTH, move || {
                    match tell(&path) {
                        Ok(true) => Finding::ok("running children keep their controlling terminal"),
                        Ok(false) => Finding::limited(
                            "not patched: children that were running lose ^C, ^Z and /dev/tty",
                            CRIU_REMEDY,
                        ),
                        Err(why) => Finding::limited(why, CRIU_REMEDY),
                    }
                }));
            }
        }
    }
    probes.push(Probe::new("time namespaces", BOTH, time_namespaces));
    probes.push(Probe::new("soft-dirty", &[Ability::Move], soft_dirty));
    probes.push(Probe::new("huge pages", &[Ability::Move], huge_pages));
    probes.push(Probe::new("userfaultfd", BOTH, userfaultfd));
    probes.push(Probe::new("pipe size", BOTH, pipe_size));
    probes
}

/// The CRIU that Phantom would use: the named one and no other, else the one Phantom built, else
/// the system's.
fn find_criu(named: Option<&Path>) -> Result<PathBuf, String> {
    match named {
        Some(path) if is_program(path) => Ok(path.to_owned()),
        Some(path) => Err(format!(
            "{} (set by PHANTOM_CRIU) is not a program",
            path.display()
        )),
        None => Some(PathBuf::from(BUILT_CRIU))
            .filter(|path| is_program(path))
            .or_else(|| in_path("criu"))
            .ok_or_else(|| "not installed".to_owned()),
    }
}

fn criu_version(path: &Path) -> Finding {
    let shown = path.display();
    let outcome = match command::run(Command::new(path).arg("--version"), "", VERSION_LIMIT) {
        Ok(outcome) => outcome,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            return Finding::missing(format!("{shown} did not tell its version"), CRIU_REMEDY);
        }
        Err(error) => return Finding::failed(&format!("run {shown}"), &error, CRIU_REMEDY),
    };
    judge_version(path, &outcome.output)
}

fn judge_version(path: &Path, output: &str) -> Finding {
    let shown = path.display();
    let (major, minor) = VERSION_WANTED;
    match parse_version(output) {
        Some((text, version)) if version >= VERSION_WANTED => {
            Finding::ok(format!("{text} at {shown}"))
        }
        Some((text, _)) => Finding::missing(
            format!("{text} at {shown} is too old: {major}.{minor} is needed"),
            CRIU_REMEDY,
        ),
        None => Finding::missing(
            format!(
                "{shown} does not tell its version: {}",
                command::first_line(output)
            ),
            CRIU_REMEDY,
        ),
    }
}

/// From `Version: 4.2.1`: the text, and its first two numbers.
fn parse_version(output: &str) -> Option<(&str, (u32, u32))> {
    let text = output
        .lines()
        .find_map(|line| line.strip_prefix("Version:"))?
        .trim();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((
        text,
        (
            numbers.next()?.ok()?,
            numbers.next().and_then(Result::ok).unwrap_or(0),
        ),
    ))
}

/// A restored program's monotonic clock goes on in a time namespace.
fn time_namespaces() -> Finding {
    let source =
        fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    match memory::time_namespace() {
        Ok(()) => Finding::ok(format!("one was made; clock source {source}")),
        Err(error) => Finding::failed(
            "make a time namespace",
            &error,
            "boot a kernel of 5.6 or newer",
        ),
    }
}

fn soft_dirty() -> Finding {
    match memory::soft_dirty() {
        Ok(true) => Finding::ok("the kernel tells which pages were written"),
        Ok(false) => Finding::limited(
            "absent: moves stop and copy, nothing is sent ahead",
            "boot a stock kernel: it has CONFIG_MEM_SOFT_DIRTY",
        ),
        Err(error) => Finding::failed("read soft-dirty bits", &error, STOCK_KERNEL).only_limits(),
    }
}

/// Written pages are told in units of huge pages where the kernel makes those by itself.
fn huge_pages() -> Finding {
    const FILE: &str = "/sys/kernel/mm/transparent_hugepage/enabled";
    match fs::read_to_string(FILE) {
        Ok(text) if text.contains("[always]") => Finding::limited(
            "always: one written byte counts as 2 MiB when memory is sent ahead",
            format!("echo madvise | sudo tee {FILE}"),
        ),
        Ok(text) => {
            let chosen = text.split(['[', ']']).nth(1).unwrap_or(text.trim());
            Finding::ok(format!(
                "{chosen}: only programs that ask for them get them"
            ))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Finding::ok("none in this kernel"),
        Err(error) => Finding::limited(format!("{FILE}: {}", plain(&error)), STOCK_KERNEL),
    }
}

fn userfaultfd() -> Finding {
    const LESS: &str = "post-copy moves need it";
    match memory::userfault_copy() {
        Ok(true) => Finding::ok("a page was filled on demand"),
        Ok(false) => Finding::limited(format!("a page was filled wrongly; {LESS}"), STOCK_KERNEL),
        Err(error) => Finding::failed(
            "use userfaultfd",
            &error,
            "boot a stock kernel: it has CONFIG_USERFAULTFD",
        )
        .only_limits(),
    }
}

/// CRIU passes memory through pipes of up to 16 MiB; who lacks CAP_SYS_RESOURCE is held to the
/// system's limit.
fn pipe_size() -> Finding {
    const WANTED: u64 = 16 << 20;
    const CAP_SYS_RESOURCE: u32 = 24;
    let limit: u64 = fs::read_to_string("/proc/sys/fs/pipe-max-size")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(1 << 20);
    if capabilities() & 1 << CAP_SYS_RESOURCE != 0 {
        Finding::ok("not limited (CAP_SYS_RESOURCE)")
    } else if limit >= WANTED {
        Finding::ok(format!("up to {}", Bytes(limit)))
    } else {
        Finding::limited(
            format!(
                "up to {}: post-copy moves need {}",
                Bytes(limit),
                Bytes(WANTED)
            ),
            format!("sudo sysctl -w fs.pipe-max-size={WANTED}"),
        )
    }
}

/// The effective capabilities of this thread.
fn capabilities() -> u64 {
    fs::read_to_string("/proc/thread-self/status")
        .ok()
        .and_then(|text| {
            let line = text.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
            u64::from_str_radix(line.trim(), 16).ok()
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        assert_eq!(
            parse_version("Version: 4.2.1\nGitID: 0\n"),
            Some(("4.2.1", (4, 2)))
        );
        assert_eq!(parse_version("Version: 4.10"), Some(("4.10", (4, 10))));
        assert_eq!(parse_version("Version: 5"), Some(("5", (5, 0))));
        for text in [
            "",
            "4.2",
            "Version:",
            "Version: x.y",
            "Version: 99999999999.1",
        ] {
            assert_eq!(parse_version(text), None, "{text}");
        }
    }

    #[test]
    fn a_criu_that_is_old_or_no_criu_is_named() {
        let path = Path::new("/opt/criu");
        for (output, state, word) in [
            ("Version: 3.17\n", State::Missing, "too old"),
            ("Version: 4.2.1\n", State::Ok, "4.2.1 at /opt/criu"),
            ("\ncannot start\n", State::Missing, "cannot start"),
        ] {
            let finding = judge_version(path, output);
            assert_eq!(finding.state, state, "{}", finding.found);
            assert!(finding.found.contains(word), "{}", finding.found);
        }
        assert_eq!(criu_version(Path::new("/bin/false")).state, State::Missing);
        assert_eq!(
            criu_version(Path::new("/no/such/criu")).state,
            State::Missing
        );
        assert!(
            find_criu(Some(Path::new("/no/such/criu")))
                .unwrap_err()
                .contains("PHANTOM_CRIU")
        );
    }
}

//! Move apps away: what CRIU asks of the kernel.

use std::fs;
use std::io;

use phantom_model::Bytes;

use super::os::memory;
use super::{Ability, Finding, Probe, plain};

const STOCK_KERNEL: &str = "boot a stock kernel of your distribution";

pub fn probes() -> Vec<Probe> {
    const BOTH: &[Ability] = &[Ability::Move, Ability::Host];
    vec![
        Probe::essential("time namespaces", BOTH, time_namespaces),
        Probe::useful("soft-dirty", &[Ability::Move], soft_dirty),
        Probe::useful("huge pages", &[Ability::Move], huge_pages),
        Probe::useful("userfaultfd", BOTH, userfaultfd),
        Probe::useful("pipe size", BOTH, pipe_size),
    ]
}

/// A restored program's monotonic clock goes on in a time namespace.
fn time_namespaces() -> Finding {
    let source =
        fs::read_to_string("/sys/devices/system/clocksource/clocksource0/current_clocksource")
            .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned());
    match memory::time_namespace() {
        Ok(()) => Finding::ok(format!("one was made; clock source {source}")),
        Err(error) => {
            Finding::failed("make a time namespace", &error, "boot a kernel of 5.6 or newer")
        }
    }
}

fn soft_dirty() -> Finding {
    match memory::soft_dirty() {
        Ok(true) => Finding::ok("the kernel tells which pages were written"),
        Ok(false) => Finding::limited(
            "absent: moves stop and copy, nothing is sent ahead",
            "boot a stock kernel: it has CONFIG_MEM_SOFT_DIRTY",
        ),
        Err(error) => Finding::failed("read soft-dirty bits", &error, STOCK_KERNEL),
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
            Finding::ok(format!("{chosen}: only programs that ask for them get them"))
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
        ),
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
            format!("up to {}: post-copy moves need {}", Bytes(limit), Bytes(WANTED)),
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

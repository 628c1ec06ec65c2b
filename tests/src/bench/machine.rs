//! The machine that figures come from.

use std::fs::read_to_string;

/// Kernel, processor and cores: `Linux 6.18.44, 2 x AMD EPYC`.
pub fn machine() -> String {
    let kernel = read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let processors = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = processors
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("cores", |(_, model)| model.trim());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!("Linux {}, {cores} x {model}", kernel.trim())
}

/// The machine's load over the last minute.
pub fn load() -> String {
    let text = read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

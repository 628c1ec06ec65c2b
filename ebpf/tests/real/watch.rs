//! The monitor against the real kernel: what is accounted, what is reported, how late.

use std::time::Duration;

use crate::common::{Cgroup, begin, crossings, end, limits, monitor, wait_until};
use phantom_ebpf::{Crossing, programs_loaded};
use phantom_model::{AppId, Resource};

const APP: AppId = AppId(7);
const OTHER: AppId = AppId(8);
const MIB: usize = 1 << 20;

fn delay(crossing: &Crossing) -> Duration {
    crossing.at - crossing.crossed
}

#[test]
fn a_lone_spinning_thread_is_seen() {
    let Some(mut monitor) = monitor("a_lone_spinning_thread_is_seen") else {
        return;
    };
    let group = Cgroup::new();
    let mut spinner = group.shell("while :; do :; done");
    monitor.watch_path(APP, group.path(), &limits("cpu=20%/500ms")).unwrap();
    let watched = phantom_ebpf::now();

    let found = begin(&mut monitor);
    assert_eq!((found.app, found.resource, found.over), (APP, Resource::Cpu, true));
    assert!((21..=103).contains(&found.measured), "{found:?}");
    assert!(found.crossed - watched >= Duration::from_millis(450), "{found:?} {watched:?}");
    assert!(delay(&found) <= Duration::from_millis(50), "{found:?}");

    spinner.kill().unwrap();
    spinner.wait().unwrap();
    let ended = end(&mut monitor);
    assert!(ended.measured <= 18, "{ended:?}");
    assert!(crossings(&mut monitor, Duration::from_millis(300)).is_empty());
}

#[test]
fn a_thousand_short_lived_children_are_accounted() {
    let Some(mut monitor) = monitor("a_thousand_short_lived_children_are_accounted") else {
        return;
    };
    let group = Cgroup::new();
    monitor.watch_path(APP, group.path(), &limits("cpu=5%/200ms")).unwrap();
    let mut parent = group.shell("i=0; while [ $i -lt 1000 ]; do /bin/true; i=$((i+1)); done");
    begin(&mut monitor);
    parent.wait().unwrap();
    let told = group.usage();
    let accounted = monitor.reading(APP).unwrap().cpu;
    let ratio = accounted.as_secs_f64() / told.as_secs_f64();
    assert!((0.99..=1.01).contains(&ratio), "accounted {accounted:?}, cpu.stat says {told:?}");
}

#[test]
fn fork_exec_and_exit_do_not_hide_it() {
    let Some(mut monitor) = monitor("fork_exec_and_exit_do_not_hide_it") else {
        return;
    };
    let group = Cgroup::new();
    monitor.watch_path(APP, group.path(), &limits("cpu=10%/400ms")).unwrap();
    let program = std::env::current_exe().unwrap();
    let mut first = group.shell(&format!(
        "PHANTOM_EBPF_ROLE='generation 60' exec '{}' --exact roles::child --nocapture >/dev/null",
        program.display()
    ));
    let found = begin(&mut monitor);
    assert!(delay(&found) <= Duration::from_millis(50), "{found:?}");
    let _ = first.wait();
}

#[test]
fn below_the_limit_nothing_is_said() {
    let Some(mut monitor) = monitor("below_the_limit_nothing_is_said") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("steps");
    role.tell("hold 64");
    monitor.watch_path(APP, group.path(), &limits("cpu=70%/500ms,memory=256MiB/100ms")).unwrap();
    for _ in 0..20 {
        role.tell("spin 15");
        std::thread::sleep(Duration::from_millis(45));
    }
    assert_eq!(monitor.drain().unwrap(), []);
    let reading = monitor.reading(APP).unwrap();
    assert!((1..=70).contains(&reading.of(Resource::Cpu).peak), "{reading:?}");
    assert!(!reading.of(Resource::Cpu).over && !reading.of(Resource::Memory).over, "{reading:?}");
}

#[test]
fn memory_growth_is_seen_and_its_end() {
    let Some(mut monitor) = monitor("memory_growth_is_seen_and_its_end") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("steps");
    role.tell("threads 8");
    monitor.watch_path(APP, group.path(), &limits("memory=128MiB/300ms")).unwrap();
    role.tell("hold 64");
    assert!(crossings(&mut monitor, Duration::from_millis(500)).is_empty());

    role.tell("hold 100");
    let held = phantom_ebpf::now();
    let found = begin(&mut monitor);
    assert_eq!((found.resource, found.over), (Resource::Memory, true));
    assert!((128 * MIB..190 * MIB).contains(&(found.measured as usize)), "{found:?}");
    // Not before the window was full, and soon after.
    assert!(found.at - found.since >= Duration::from_millis(300), "{found:?}");
    assert!(delay(&found) <= Duration::from_millis(50), "{found:?}");
    let latest = held + Duration::from_millis(350);
    assert!(found.at <= latest, "{found:?} {latest:?}");

    role.tell("release");
    end(&mut monitor);
    let reading = monitor.reading(APP).unwrap();
    assert!(reading.of(Resource::Memory).now < 100 * MIB as u64, "{reading:?}");
    assert!(reading.of(Resource::Memory).peak >= 164 * MIB as u64, "{reading:?}");
    assert_eq!(reading.processes, 1);
}

#[test]
fn a_short_burst_of_memory_is_no_excursion() {
    let Some(mut monitor) = monitor("a_short_burst_of_memory_is_no_excursion") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("steps");
    monitor.watch_path(APP, group.path(), &limits("memory=64MiB/2s")).unwrap();
    for _ in 0..3 {
        role.tell("hold 100");
        std::thread::sleep(Duration::from_millis(100));
        role.tell("release");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(crossings(&mut monitor, Duration::from_millis(1800)), []);
}

/// Bytes in the fields `names` of `/proc/PID/status`.
fn status_bytes(pid: u32, names: &[&str]) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let field = |name: &&str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(*name)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    };
    names.iter().map(field).sum()
}

fn private_bytes(group: &Cgroup) -> u64 {
    let pids = group.processes();
    pids.iter().map(|pid| status_bytes(*pid, &["RssAnon:", "RssShmem:"])).sum()
}

#[test]
fn resident_memory_agrees_with_proc() {
    let Some(mut monitor) = monitor("resident_memory_agrees_with_proc") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("steps");
    role.tell("hold 50");
    role.tell("share 30");
    monitor.watch_path(APP, group.path(), &limits("")).unwrap();
    group.freeze(true);
    let told = private_bytes(&group);
    let reading = monitor.reading(APP).unwrap();
    assert!(told >= 80 * MIB as u64, "{told}");
    // Before Linux 6.2 every thread keeps up to 64 pages of each kind to itself.
    let apart = reading.of(Resource::Memory).now.abs_diff(told);
    assert!(apart <= told / 20, "status says {told}, {reading:?}");
    group.freeze(false);
}

#[test]
fn a_file_that_many_processes_map_does_not_count() {
    let Some(mut monitor) = monitor("a_file_that_many_processes_map_does_not_count") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("steps");
    role.tell("fork 200");
    monitor.watch_path(APP, group.path(), &limits("")).unwrap();
    group.freeze(true);
    let told = private_bytes(&group);
    let pids = group.processes();
    let files: u64 = pids.iter().map(|pid| status_bytes(*pid, &["RssFile:"])).sum();
    let reading = monitor.reading(APP).unwrap();
    group.freeze(false);
    assert_eq!(reading.processes, 201);
    assert!(files > 2 * told, "the file is mapped by all: {files} bytes, and {told} of their own");
    let apart = reading.of(Resource::Memory).now.abs_diff(told);
    assert!(apart <= told / 50, "status says {told}, {reading:?}");

    // A limit that the files would exceed, and then one process does.
    let level = (told + 64 * MIB as u64) / MIB as u64;
    monitor.set_limits(APP, &limits(&format!("memory={level}MiB/200ms"))).unwrap();
    assert_eq!(crossings(&mut monitor, Duration::from_millis(500)), []);
    role.tell("hold 100");
    let found = begin(&mut monitor);
    assert_eq!((found.resource, found.over), (Resource::Memory, true));
    assert!((level..level + 64).contains(&(found.measured / MIB as u64)), "{found:?}");
}

#[test]
fn two_monitors_do_not_disturb_each_other() {
    let Some(mut one) = monitor("two_monitors_do_not_disturb_each_other") else {
        return;
    };
    let Some(mut two) = monitor("two_monitors_do_not_disturb_each_other") else {
        return;
    };
    let (busy, idle) = (Cgroup::new(), Cgroup::new());
    let mut spinner = busy.shell("while :; do :; done");
    let mut sleeper = idle.shell("sleep 60");
    one.watch_path(APP, busy.path(), &limits("cpu=10%/200ms")).unwrap();
    two.watch_path(APP, idle.path(), &limits("cpu=60%/1s")).unwrap();
    two.watch_path(OTHER, busy.path(), &limits("cpu=10%/400ms")).unwrap();
    assert_eq!(begin(&mut one).app, APP);
    drop(one);
    assert_eq!(begin(&mut two).app, OTHER);
    for process in [&mut spinner, &mut sleeper] {
        process.kill().unwrap();
        process.wait().unwrap();
    }
}

#[test]
fn limits_change_and_watches_end_while_it_runs() {
    let Some(mut monitor) = monitor("limits_change_and_watches_end_while_it_runs") else {
        return;
    };
    let group = Cgroup::new();
    let mut spinner = group.shell("while :; do :; done");
    monitor.watch_path(APP, group.path(), &limits("cpu=5000%/200ms")).unwrap();
    assert!(crossings(&mut monitor, Duration::from_millis(400)).is_empty());
    monitor.set_limits(APP, &limits("cpu=10%/200ms")).unwrap();
    begin(&mut monitor);

    assert!(monitor.unwatch(APP).unwrap());
    assert!(!monitor.unwatch(APP).unwrap());
    assert!(monitor.reading(APP).is_err() && monitor.set_limits(APP, &limits("")).is_err());
    spinner.kill().unwrap();
    spinner.wait().unwrap();
    assert!(crossings(&mut monitor, Duration::from_millis(100)).is_empty());

    // The timer rests when there is nothing to watch.
    let before = monitor.cost().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(monitor.cost().unwrap(), before);
}

#[test]
fn only_a_cgroup_can_be_watched() {
    let Some(mut monitor) = monitor("only_a_cgroup_can_be_watched") else {
        return;
    };
    let error = monitor.watch_path(APP, "/tmp".as_ref(), &limits("")).unwrap_err();
    assert!(error.to_string().contains("v2 hierarchy"), "{error}");
    let error = monitor.watch_path(APP, "/nowhere".as_ref(), &limits("")).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
    assert_eq!(monitor.watched().count(), 0);
}

#[test]
fn dropped_it_leaves_nothing_in_the_kernel() {
    let Some(mut monitor) = monitor("dropped_it_leaves_nothing_in_the_kernel") else {
        return;
    };
    let group = Cgroup::new();
    let mut spinner = group.shell("while :; do :; done");
    monitor.watch_path(APP, group.path(), &limits("cpu=20%/1s")).unwrap();
    let ids = monitor.program_ids();
    assert!(ids.len() >= 3, "{ids:?}");
    assert!(programs_loaded().iter().any(|name| name == "phantom_watch"));
    drop(monitor);
    // The kernel frees programs after a grace period.
    wait_until("the programs to be gone", || {
        let mut left = libbpf_rs::query::ProgInfoIter::default();
        !left.any(|program| ids.contains(&program.id))
    });
    spinner.kill().unwrap();
    spinner.wait().unwrap();
}

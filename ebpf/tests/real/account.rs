//! What the monitor accounts, against the kernel's own accounts of the same tasks and interfaces.

use std::process::Command;
use std::time::{Duration, Instant};

use phantom_ebpf::Crossing;
use phantom_model::{AppId, Resource};

use crate::common::{Cgroup, begin, disk_bytes, limits, monitor, run_delay, wait_until};

const APP: AppId = AppId(7);
const MIB: u64 = 1 << 20;

/// The run-queue delay of all threads that a process has.
fn delay_of_threads(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks.map(|task| run_delay(task.unwrap().path().to_str().unwrap())).sum()
}

fn close(what: &str, accounted: u64, told: u64) {
    let apart = accounted.abs_diff(told) as f64 / told as f64;
    println!("{what}: accounted {accounted}, the kernel says {told}, {:.2} % apart", apart * 100.0);
    assert!(apart <= 0.01, "{what}: accounted {accounted}, the kernel says {told}");
}

/// A file that is gone with the test, on a disk.
struct Scratch(String);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        Self(format!("{}/{name}", env!("CARGO_TARGET_TMPDIR")))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn a_thousand_forks_a_second_are_accounted_to_the_last() {
    let Some(mut monitor) = monitor("a_thousand_forks_a_second_are_accounted_to_the_last") else {
        return;
    };
    let (group, file) = (Cgroup::new(), Scratch::new("forks"));
    let mut role = group.role("forks");
    monitor.watch_path(APP, group.path(), &limits("delay=5000%/1s,disk=1TiB/s/1s")).unwrap();
    let begun = Instant::now();
    let told = role.tell(&format!("fork-for 3 {}", file.0));
    let took = begun.elapsed();
    let mut told = told.split(' ').map(|word| word.parse::<u64>().unwrap());
    let (forked, delay) = (told.next().unwrap(), told.next().unwrap());
    println!("{:.0} forks a second", forked as f64 / took.as_secs_f64());
    let parent = format!("/proc/{}", role.pid());
    let reading = monitor.reading(APP).unwrap();
    let delay = delay + delay_of_threads(role.pid());
    // The kernel adds what its children did to the parent that waited for them.
    let disk = disk_bytes(&parent);
    close("delay", u64::try_from(reading.delay.as_nanos()).unwrap(), delay);
    close("disk", reading.disk.0, disk);
    close("cpu", reading.cpu.as_micros() as u64, group.usage().as_micros() as u64);
}

#[test]
fn packets_are_accounted_both_ways_and_the_loopback_is_left_out() {
    let test = "packets_are_accounted_both_ways_and_the_loopback_is_left_out";
    let Some(mut monitor) = monitor(test) else {
        return;
    };
    let (group, other) = (Cgroup::new(), Cgroup::new());
    let (mut near, mut far) =
        (group.role_by(&["unshare", "-n"], "near"), other.role_by(&["unshare", "-n"], "far"));
    let ip = |pid: u32, words: &str| {
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid.to_string(), "-n", "ip"]).args(words.split(' '));
        assert!(command.status().unwrap().success(), "ip {words}");
    };
    ip(near.pid(), &format!("link add veth0 type veth peer name veth0 netns {}", far.pid()));
    for (pid, address) in [(near.pid(), "10.9.9.1/24"), (far.pid(), "10.9.9.2/24")] {
        ip(pid, &format!("addr add {address} dev veth0"));
        ip(pid, "link set veth0 up");
        ip(pid, "link set lo up");
    }
    monitor.watch_path(APP, group.path(), &limits("net=1MiB/s/500ms")).unwrap();
    near.tell("echo");
    // What the kernel itself sends to greet its neighbours counts as well.
    let greetings = monitor.reading(APP).unwrap().net.0;
    assert!(greetings < 10_000, "{greetings} bytes, as if the loopback counted");

    far.tell("listen");
    std::thread::scope(|scope| {
        scope.spawn(|| far.tell("serve"));
        near.tell("send 10.9.9.2");
    });
    let devices = std::fs::read_to_string(format!("/proc/{}/net/dev", near.pid())).unwrap();
    let line = devices.lines().find_map(|line| line.trim().strip_prefix("veth0:")).unwrap();
    let counts: Vec<u64> = line.split_whitespace().map(|word| word.parse().unwrap()).collect();
    // Received bytes and packets, then the same sent; each packet with its Ethernet header.
    let told = counts[0] + counts[8] - 14 * (counts[1] + counts[9]);
    assert!(told > 2 * 16 * MIB, "{line}");
    close("net", monitor.reading(APP).unwrap().net.0, told);
    expect_verdict(&begin(&mut monitor), Resource::Net, 1 << 20);
}

#[test]
fn waiting_for_a_cpu_is_seen() {
    let Some(mut monitor) = monitor("waiting_for_a_cpu_is_seen") else {
        return;
    };
    let group = Cgroup::new();
    let mut role = group.role("waits");
    monitor.watch_path(APP, group.path(), &limits("delay=30%/500ms")).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| role.tell("compete 2500"));
        expect_verdict(&begin(&mut monitor), Resource::Delay, 30);
    });
    // Its end is reported too, once nobody waits.
    let ended = crate::common::end(&mut monitor);
    assert!(ended.measured <= 27, "{ended:?}");
}

#[test]
fn writing_to_a_disk_is_seen() {
    let Some(mut monitor) = monitor("writing_to_a_disk_is_seen") else {
        return;
    };
    let (group, file) = (Cgroup::new(), Scratch::new("writes"));
    let mut role = group.role("writes");
    monitor.watch_path(APP, group.path(), &limits("disk=10MiB/s/500ms")).unwrap();
    wait_until("the first window", || {
        let watched = monitor.reading(APP).unwrap();
        watched.at > Duration::ZERO && monitor.cost().unwrap().runs > 5
    });
    std::thread::sleep(Duration::from_millis(600));
    role.tell(&format!("write 32 {}", file.0));
    let found = begin(&mut monitor);
    expect_verdict(&found, Resource::Disk, 10 << 20);
    let reading = monitor.reading(APP).unwrap();
    assert_eq!(reading.disk.0, disk_bytes(&format!("/proc/{}", role.pid())));
}

fn expect_verdict(found: &Crossing, resource: Resource, level: u64) {
    assert_eq!((found.app, found.resource, found.over), (APP, resource, true));
    assert!(found.measured > level, "{found:?}");
    assert!(found.at - found.crossed <= Duration::from_millis(50), "{found:?}");
}

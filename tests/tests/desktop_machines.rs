//! Desktops as machines: each its own, and able to do what the other scenarios need of it.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::unistd::Pid;
use phantom_tests::desktops::{Desktop, Lan, Release};
use phantom_tests::lab::Usage;

/// Sends a datagram and waits for the answer; prints the round trip in milliseconds.
const PING: &str = "python3 -c 'import socket, sys, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(float(sys.argv[2]))
begun = time.monotonic()
s.sendto(b\"x\", (sys.argv[1], 7)); s.recv(10)
print(round((time.monotonic() - begun) * 1000))'";
/// Answers datagrams.
const ECHO: &str = "setsid python3 -c 'import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind((\"\", 7))
open(\"/run/echo\", \"w\")
while True:
    data, peer = s.recvfrom(10); s.sendto(data, peer)' </dev/null >/dev/null 2>&1 &
while [ ! -e /run/echo ]; do sleep 0.05; done";

/// The round trip from one desktop to another in milliseconds; `None` when nothing comes back.
fn ping(from: &Desktop, to: &Desktop, patience_s: f32) -> anyhow::Result<Option<u64>> {
    let printed = from.run(&format!("{PING} {} {patience_s} 2>&1 || :", to.address()))?;
    Ok(printed.trim().parse().ok())
}

#[test]
fn clones_are_machines_of_their_own() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let begun = Instant::now();
    let alice = lan.desktop("alice").person("ada", 1000).start()?;
    let bob = lan.desktop("bob").release(Release::Debian12).cpus(2).person("bob", 1500).start()?;
    println!("NOTE two desktops in {:.1} s", begun.elapsed().as_secs_f64());
    let what = "cat /etc/machine-id /etc/hostname; uname -r; nproc; ip -br link show eth0; \
                head -c 16 /dev/urandom | od -An -tx8; date +%s";
    let (a, b) = (alice.run(what)?, bob.run(what)?);
    let (a, b): (Vec<&str>, Vec<&str>) = (a.lines().collect(), b.lines().collect());
    for (index, name) in
        ["machine id", "host name", "kernel", "processors", "MAC", "random"].into_iter().enumerate()
    {
        ensure!(a[index] != b[index], "both have the {name} {}", a[index]);
    }
    ensure!(a[2].starts_with("6.12.") && b[2].starts_with("6.1."), "{} and {}", a[2], b[2]);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
    for seconds in [a[6], b[6]] {
        ensure!(now.abs_diff(seconds.parse()?) <= 2, "its clock says {seconds}, ours {now}");
    }
    ensure!(alice.run_as("ada", "id -u; pwd")? == "1000\n/home/ada\n", "ada is at home");
    ensure!(bob.run_as("bob", "id -u")? == "1500\n", "bob has his own number");
    // What the other scenarios are for.
    for desktop in [&alice, &bob] {
        desktop.run(
            "test -e /dev/kvm; test -e /sys/kernel/btf/vmlinux
             grep -q memory /sys/fs/cgroup/cgroup.controllers
             grep -q soft_dirty /proc/kallsyms || zcat /proc/config.gz 2>/dev/null | grep -q SOFT_DIRTY \
             || grep -q CONFIG_MEM_SOFT_DIRTY=y /boot/config-$(uname -r)
             echo deep | grep -q deep /sys/power/mem_sleep",
        )?;
    }
    Ok(())
}

#[test]
fn four_desktops_of_different_sizes_take_little_memory() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let plans = [
        lan.desktop("attic").cpus(2),
        lan.desktop("cellar").release(Release::Debian12),
        lan.desktop("garage").memory_mib(256).disk_gib(3),
        lan.desktop("porch"),
    ];
    let desktops =
        plans.into_iter().map(|plan| plan.start()).collect::<anyhow::Result<Vec<_>>>()?;
    let mut resident = Vec::new();
    for desktop in &desktops {
        let qemu = Pid::from_raw(desktop.qemu_pid()?.cast_signed());
        resident.push(Usage::of(qemu)?.resident_mib.round());
    }
    println!("NOTE four desktops take {resident:?} MiB");
    let [attic, _, garage, porch] = &desktops[..] else { bail!("not four") };
    let memory_mib = |desktop: &Desktop| -> anyhow::Result<u64> {
        let kib = desktop.run("awk '/^MemTotal/ {print $2}' /proc/meminfo")?;
        Ok(kib.trim().parse::<u64>()? / 1024)
    };
    ensure!((180..256).contains(&memory_mib(garage)?), "{} MiB", memory_mib(garage)?);
    ensure!((400..512).contains(&memory_mib(porch)?), "{} MiB", memory_mib(porch)?);
    ensure!(attic.run("nproc")?.trim() == "2" && porch.run("nproc")?.trim() == "1", "processors");
    let sectors: u64 = garage.run("cat /sys/class/block/vda/size")?.trim().parse()?;
    ensure!(sectors * 512 == 3 << 30, "a disk of {sectors} sectors");
    Ok(())
}

#[test]
fn a_desktop_with_systemd_runs_units() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let server = lan.desktop("server").systemd().start()?;
    let unit = "[Service]\nType=oneshot\nExecStart=/bin/echo it ran\n";
    server.write("/etc/systemd/system/hello.service", unit.as_bytes())?;
    server.run("systemctl daemon-reload; systemctl start hello")?;
    let journal = server.run("journalctl --sync; journalctl -o cat -u hello")?;
    ensure!(journal.contains("it ran"), "not in the journal: {journal}");
    ensure!(server.logs().contains("it ran"), "not in its logs");
    ensure!(server.run("cat /proc/1/comm")?.trim() == "systemd", "process 1");
    Ok(())
}

#[test]
fn a_network_is_as_slow_as_it_is_told_to_be_and_can_be_cut() -> anyhow::Result<()> {
    let lan = Lan::new()?.delay_ms(40);
    let alice = lan.desktop("alice").start()?;
    let mut bob = lan.desktop("bob").start()?;
    bob.run(ECHO)?;
    ping(&alice, &bob, 10.0)?.context("no answer on a good network")?;
    let quiet = ping(&alice, &bob, 10.0)?.context("no answer on a good network")?;
    ensure!(quiet >= 40, "there and back in {quiet} ms");
    lan.cut(&alice, &bob)?;
    ensure!(ping(&alice, &bob, 1.0)?.is_none(), "an answer through a cut network");
    lan.mend()?;
    ping(&alice, &bob, 10.0)?.context("no answer on a mended network")?;
    bob.plug(false)?;
    ensure!(ping(&alice, &bob, 1.0)?.is_none(), "an answer without a cable");
    bob.plug(true)?;
    ping(&alice, &bob, 20.0)?.context("no answer with the cable back")?;
    Ok(())
}

#[test]
fn a_disk_outlives_a_power_cut_and_memory_does_not() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let mut alice = lan.desktop("alice").disk_gib(3).start()?;
    let size: u64 = alice.run("df --output=size -B1M / | tail -n 1")?.trim().parse()?;
    ensure!((2800..3100).contains(&size), "a disk of {size} MiB");
    alice.run("echo kept > /root/file; sync; echo lost > /run/file")?;
    alice.kill_power()?;
    ensure!(alice.run(":").is_err(), "it has no power");
    alice.power_on()?;
    let found = alice.run("cat /root/file; cat /run/file 2>/dev/null || echo gone; hostname")?;
    ensure!(found == "kept\ngone\nalice\n", "after the power cut: {found}");
    Ok(())
}

#[test]
fn a_laptop_sleeps_and_its_clocks_know_it() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let mut laptop = lan.desktop("laptop").start()?;
    let clocks = "python3 -c 'import time
print(*(time.clock_gettime(c) for c in
    (time.CLOCK_BOOTTIME, time.CLOCK_MONOTONIC, time.CLOCK_REALTIME)))'";
    let read = |laptop: &Desktop| -> anyhow::Result<Vec<f64>> {
        laptop.run(clocks)?.split_whitespace().map(|word| Ok(word.parse()?)).collect()
    };
    let other = lan.desktop("other").start()?;
    other.run(ECHO)?;
    let before = read(&laptop)?;
    laptop.sleep_for(Duration::from_secs(10))?;
    let after = read(&laptop)?;
    let passed: Vec<f64> =
        after.iter().zip(&before).map(|(after, before)| after - before).collect();
    let [boot, monotonic, real] = passed[..] else { bail!("not three clocks: {passed:?}") };
    // The time asleep is read off a clock of whole seconds, and the kernel moves it by up to one
    // more to undo the drift of earlier sleeps (timekeeping_suspend).
    ensure!(boot - monotonic >= 7.9, "10 s asleep are {:.1} s", boot - monotonic);
    ensure!((real - boot).abs() < 0.5, "the time of day went on by {real:.1} s, not {boot:.1} s");
    ping(&laptop, &other, 20.0)?.context("no network after the sleep")?;
    Ok(())
}

#[test]
fn a_desktop_that_stops_is_told_with_its_reason() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let alice = lan.desktop("alice").start()?;
    let error = alice.run("echo c > /proc/sysrq-trigger; sleep 60").expect_err("its kernel panics");
    let text = format!("{error:#}");
    ensure!(text.contains("Kernel panic") && text.contains("sysrq"), "{text}");
    let bob = lan.desktop("bob").start()?;
    let slow = bob.run_for("echo begun; sleep 60", Duration::from_secs(3)).expect_err("too slow");
    let text = format!("{slow:#}");
    ensure!(text.contains("did not end within 3s") && text.contains("begun"), "{text}");
    // The command was ended, the desktop was not.
    bob.run("while pgrep -x sleep; do sleep 0.1; done")?;
    Ok(())
}

#[test]
fn a_desktop_that_hangs_is_told_from_a_slow_command() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let alice = lan.desktop("alice").release(Release::Debian12).start()?;
    // Its one processor does nothing else any more, for ever. Kernels since 6.12 leave a twentieth
    // to others all the same.
    let hang = "echo -1 > /proc/sys/kernel/sched_rt_runtime_us
                exec chrt -f 99 sh -c 'while :; do :; done'";
    let error = alice.run_for(hang, Duration::from_secs(3)).expect_err("it hangs");
    let text = format!("{error:#}");
    ensure!(text.contains("it hangs") && text.contains("did not end within 3s"), "{text}");
    let pid = alice.qemu_pid()?;
    drop(alice);
    ensure!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "its QEMU is left");
    Ok(())
}

//! What a stock kernel has that namespaces of a development machine may lack.

use anyhow::{Context, ensure};
use phantom_tests::desktops::{Desktop, Lan, Release};
use phantom_tests::node::{MOVE, Node, wait_until};

/// A process that holds 40 MiB and then only touches a little of it.
const HOLDER: &str = "setsid python3 -c 'import os, time
held = bytearray(os.urandom(40 << 20)); open(\"/run/held\", \"w\").write(str(os.getpid()))
while True:
    held[0:4096] = os.urandom(4096); time.sleep(0.05)' </dev/null >/dev/null 2>&1 &
while [ ! -s /run/held ]; do sleep 0.05; done";

/// The sum of the sizes of the page files in a folder, in KiB.
fn pages_kib(desktop: &Desktop, folder: &str) -> anyhow::Result<u64> {
    let script = format!("cat {folder}/pages-*.img | wc -c");
    Ok(desktop.run(&script)?.trim().parse::<u64>()? / 1024)
}

#[test]
fn memory_is_copied_ahead_while_a_program_runs() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    for release in Release::ALL {
        let desktop = lan.desktop(release.name()).release(release).start()?;
        desktop.run(HOLDER)?;
        desktop.run(
            "cd /tmp; mkdir ahead last; criu=/usr/local/lib/phantom/criu/criu
             $criu pre-dump --tree $(cat /run/held) --images-dir ahead --track-mem
             $criu dump --tree $(cat /run/held) --images-dir last --prev-images-dir ../ahead \
                 --track-mem --network-lock skip --leave-running",
        )?;
        let (ahead, last) = (pages_kib(&desktop, "/tmp/ahead")?, pages_kib(&desktop, "/tmp/last")?);
        ensure!(ahead > 40 << 10, "{}: only {ahead} KiB went ahead", release.name());
        ensure!(last * 10 < ahead, "{}: {ahead} KiB ahead, {last} KiB at last", release.name());
        println!("NOTE {}: {ahead} KiB ahead, {last} KiB at last", release.name());
    }
    Ok(())
}

#[test]
fn limits_of_a_control_group_hold() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let desktop = lan.desktop("desktop").start()?;
    desktop.run(
        "cd /sys/fs/cgroup; mkdir tried; echo +cpu +memory +pids > cgroup.subtree_control
         echo 64M > tried/memory.max; echo 20 > tried/pids.max
         echo '20000 100000' > tried/cpu.max",
    )?;
    let inside = |script: &str| {
        desktop.run(&format!("echo $$ > /sys/fs/cgroup/tried/cgroup.procs\n{script}"))
    };
    let greedy = "python3 -c 'held = b\"x\" * (200 << 20)'";
    ensure!(desktop.run(greedy).is_ok(), "it runs where nothing limits it");
    ensure!(inside(greedy).is_err(), "200 MiB in a group of 64");
    let kills = desktop.run("grep '^oom_kill ' /sys/fs/cgroup/tried/memory.events")?;
    ensure!(!kills.trim().ends_with(" 0"), "nobody was killed for memory: {kills}");
    let forks = inside(
        "python3 -c 'import os, sys, time
made = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(60)
        made += 1
except BlockingIOError:
    pass
print(made)'; echo 1 > /sys/fs/cgroup/tried/cgroup.kill",
    );
    // The kill ends the script itself as well; what it printed is in the error.
    let text = format!("{:#}", forks.expect_err("its own group was killed"));
    ensure!(text.contains("ended with 137: 1"), "forks in a group of 20: {text}");
    let used = inside(
        "exec python3 -c 'import time
end = time.monotonic() + 5
while time.monotonic() < end: pass
print(time.process_time())'",
    )?;
    let used: f64 = used.trim().parse()?;
    ensure!(used < 2.0, "{used} s of CPU in 5 s at a limit of a fifth");
    Ok(())
}

#[test]
fn the_doctor_tells_real_kvm_from_emulated() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let desktop = lan.desktop("desktop").start()?;
    let state = |printed: &str| -> anyhow::Result<String> {
        let report: serde_json::Value = serde_json::from_str(printed)?;
        let checks = report["checks"].as_array().cloned().unwrap_or_default();
        let kvm = checks.iter().find(|check| check["name"] == "KVM");
        Ok(kvm.map(|check| check["state"].to_string()).unwrap_or_default())
    };
    let there = state(&desktop.run("phantom doctor --json")?)?;
    ensure!(there == "\"ok\"", "on a desktop with KVM the doctor says {there}");
    // Where this machine runs the desktops by translation, its own /dev/kvm is none, or emulated.
    let host = phantom_tests::desktops::Host::get()?;
    if host.accel == phantom_tests::desktops::Accel::Tcg {
        let output =
            std::process::Command::new(&host.phantom).args(["doctor", "--json"]).output()?;
        let here = state(&String::from_utf8_lossy(&output.stdout))?;
        ensure!(here == "\"missing\"" || here == "\"limited\"", "here the doctor says {here}");
    }
    Ok(())
}

const SPINS: &str = "while True: pass";
const CROWDS: &str = "import os\nfor i in range(2): os.fork()\nwhile True: pass";
const WRITES: &str = "import os\nwhile True:\n    with open('big', 'wb') as out: \
    out.write(bytes(1 << 20)); out.flush(); os.fsync(out.fileno())";
const SENDS: &str = "import socket, time\nout = socket.socket(type=socket.SOCK_DGRAM)\n\
    while True: out.sendto(bytes(1000), ('10.1.2.3', 9)); time.sleep(0.002)";

/// Has an app of its user exceed a limit, and gives how far its life came, in lines.
fn exceeds(desktop: &Desktop, limit: &str, script: &str) -> anyhow::Result<String> {
    let name = limit.split('=').next().unwrap_or_default();
    let args = ["run", "--name", name, "--detach", "--limit", limit, "--"];
    let output =
        desktop.phantom(true, &[&args[..], &["/usr/bin/python3", "-c", script]].concat())?;
    let said = output.stderr;
    ensure!(output.code == 0 && said.is_empty(), "{limit}: {said}\n{}", desktop.logs());
    let life = || anyhow::Ok(desktop.phantom(true, &["log", name])?.stdout);
    wait_until(&format!("a verdict about {limit}"), MOVE, || Ok(life()?.contains("verdict")))
        .with_context(|| format!("{}\n{}", life().unwrap_or_default(), desktop.logs()))?;
    life()
}

#[test]
fn every_limit_is_seen_by_the_kernels_of_both_releases() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    for release in Release::ALL {
        let desktop = lan.desktop(release.name()).release(release).person("ada", 1000).start()?;
        desktop.found()?;
        let end = |name: &str| desktop.phantom(true, &["kill", "-s", "KILL", name]).map(drop);

        let life = exceeds(&desktop, "cpu=20%/2s/soft", SPINS)?;
        ensure!(life.contains("held") && life.contains("to 20% of a core"), "{life}");
        let usage = "cat /sys/fs/cgroup/phantom/*/*/cpu.max
            sed -n 's/usage_usec //p' /sys/fs/cgroup/phantom/*/*/cpu.stat; sleep 5
            sed -n 's/usage_usec //p' /sys/fs/cgroup/phantom/*/*/cpu.stat";
        let told = desktop.run(usage)?;
        let lines: Vec<&str> = told.lines().collect();
        ensure!(lines.len() == 3 && lines[0] == "20000 100000", "{told}");
        let used = lines[2].parse::<u64>()? - lines[1].parse::<u64>()?;
        ensure!((500_000..2_000_000).contains(&used), "{used} us in 5 s: {told}");
        end("cpu")?;

        for (limit, script) in [
            ("delay=60%/2s", CROWDS),
            ("stutter=30%/2s", CROWDS),
            ("disk=100kB/s/2s", WRITES),
            ("net=20kB/s/2s", SENDS),
        ] {
            let life = exceeds(&desktop, limit, script)?;
            ensure!(life.contains("more than its limit of"), "{life}");
            end(limit.split('=').next().unwrap_or_default())?;
        }
        println!("NOTE {}: every kind of limit", release.name());
    }
    Ok(())
}

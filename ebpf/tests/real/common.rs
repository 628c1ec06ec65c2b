//! Cgroups that vanish with the test, processes in them, and a wait for crossings.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use phantom_ebpf::{Crossing, Monitor};
use phantom_model::Limits;

/// A monitor, or a word why there is none.
pub fn monitor(test: &str) -> Option<Monitor> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP {test}: needs root");
        return None;
    }
    if cgroup_root().is_none() {
        println!("SKIP {test}: no cgroup v2 hierarchy is mounted");
        return None;
    }
    Some(Monitor::load().expect("the monitor loads"))
}

pub fn limits(text: &str) -> Limits {
    text.parse().expect("a limit")
}

fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    })
}

/// A cgroup of the test's own; its processes are killed with it.
pub struct Cgroup(PathBuf);

impl Cgroup {
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("phantom-ebpf-test-{}-{number}", std::process::id());
        let path = cgroup_root().expect("cgroup v2").join(name);
        fs::create_dir(&path).expect("a cgroup");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Starts a command of the shell in it.
    pub fn shell(&self, script: &str) -> Child {
        self.command("sh").arg("-c").arg(script).spawn().expect("sh")
    }

    /// Starts `child` of this test program in it, in `role`.
    pub fn role(&self, role: &str) -> Role {
        self.role_by(&[], role)
    }

    /// The same by way of a program that runs another, such as `unshare -n`.
    pub fn role_by(&self, by: &[&str], role: &str) -> Role {
        let program = std::env::current_exe().expect("own path");
        let program = program.to_str().expect("UTF-8");
        let (first, rest) = by.split_first().unwrap_or((&program, &[]));
        let own = (!by.is_empty()).then_some(program);
        let mut child = self
            .command(first)
            .args(rest)
            .args(own)
            .args(["--exact", "roles::child", "--nocapture", "--test-threads=1"])
            .env("PHANTOM_EBPF_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("own program");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let mut role = Role { child, input, output };
        role.await_word("ready");
        role
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""])
            .arg(&self.0)
            .arg(program)
            .stdin(Stdio::null());
        command
    }

    /// CPU time as the kernel tells it to users.
    pub fn usage(&self) -> Duration {
        let text = fs::read_to_string(self.0.join("cpu.stat")).expect("cpu.stat");
        let line = text.lines().find_map(|line| line.strip_prefix("usage_usec "));
        Duration::from_micros(line.and_then(|number| number.parse().ok()).expect("usage_usec"))
    }

    /// Its processes.
    pub fn processes(&self) -> Vec<u32> {
        let text = fs::read_to_string(self.0.join("cgroup.procs")).expect("cgroup.procs");
        text.lines().map(|pid| pid.parse().expect("a process id")).collect()
    }

    pub fn freeze(&self, frozen: bool) {
        let word = if frozen { "1" } else { "0" };
        fs::write(self.0.join("cgroup.freeze"), word).expect("cgroup.freeze");
        let want = format!("frozen {word}");
        wait_until("the freezer", || {
            let events = fs::read_to_string(self.0.join("cgroup.events")).unwrap_or_default();
            events.lines().any(|line| line == want)
        });
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let end = Instant::now() + Duration::from_secs(5);
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// A process of this test program that does as it is told, line by line.
pub struct Role {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Role {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Has it do something; gives the words before its `done`.
    pub fn tell(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}").expect("the child listens");
        self.await_word("done")
    }

    fn await_word(&mut self, word: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            let read = self.output.read_line(&mut line).expect("the child answers");
            assert_ne!(read, 0, "the child ended before it said `{word}`");
            if let Some(before) = line.trim_end().strip_suffix(word) {
                return before.trim_end().to_owned();
            }
        }
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The next crossings, or none if `time` passes.
pub fn crossings(monitor: &mut Monitor, time: Duration) -> Vec<Crossing> {
    let end = Instant::now() + time;
    loop {
        let found = monitor.drain().expect("the ring buffer");
        let left = end.saturating_duration_since(Instant::now());
        if !found.is_empty() || left.is_zero() {
            return found;
        }
        let timeout = PollTimeout::try_from(left).expect("a short time");
        let mut fds = [PollFd::new(monitor.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).expect("poll");
    }
}

/// The next beginning of an excursion.
pub fn begin(monitor: &mut Monitor) -> Crossing {
    next(monitor, true)
}

/// The next end of an excursion.
pub fn end(monitor: &mut Monitor) -> Crossing {
    next(monitor, false)
}

/// On a busy machine a spinning process does not always get its share, so others may come between.
fn next(monitor: &mut Monitor, over: bool) -> Crossing {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        let found = crossings(monitor, Duration::from_secs(5));
        if let Some(found) = found.iter().find(|found| found.over == over) {
            return *found;
        }
    }
    panic!("no such crossing in 20 seconds");
}

pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < end, "waited ten seconds for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Nanoseconds the task has waited for a CPU.
pub fn run_delay(task: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{task}/schedstat")).unwrap();
    text.split(' ').nth(1).unwrap().parse().unwrap()
}

/// Bytes the process has read from and written for disks.
pub fn disk_bytes(process: &str) -> u64 {
    let text = std::fs::read_to_string(format!("{process}/io")).unwrap();
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
    let number = |name| field(name).parse::<u64>().unwrap();
    number("read_bytes:") + number("write_bytes:")
}

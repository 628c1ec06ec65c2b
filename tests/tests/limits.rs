//! Every kind of limit, as users set and owners feel them.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Event, MOVE, Node, Pair, SOON, wait_until};

/// Runs a script of Python at home until what it does has made it move, and gives the line that
/// tells its user, and its life.
fn moves(
    pair: &Pair,
    name: &str,
    limit: &str,
    script: &str,
) -> anyhow::Result<(String, Vec<Event>)> {
    let args = ["run", "--name", name, "--limit", limit, "--", "/usr/bin/python3", "-c", script];
    let mut terminal = pair.home().terminal(&args)?;
    let told = format!("phantom: {name} moved to cellar: it ");
    let arrived = terminal.expect(&told, MOVE).and_then(|()| terminal.expect("\n", SOON));
    if let Err(error) = arrived {
        let events = pair.events(name)?;
        return Err(error.context(format!("{limit}: {events:#?}")));
    }
    ensure!(pair.row(name)?.is_some_and(|row| row.host == "cellar"), "{limit}");
    let text = String::from_utf8_lossy(terminal.transcript()).into_owned();
    let line =
        text.lines().find_map(|line| line.split_once(&told)).context("the line")?.1.to_owned();
    let events = pair.events(name)?;
    pair.home().phantom(true, &["kill", "-s", "KILL", name])?;
    terminal.wait(SOON)?;
    Ok((line, events))
}

const CROWD: &str = "import os\nfor i in range(2): os.fork()\nwhile True: pass";
const WRITER: &str = "import os\nwhile True:\n    with open('big', 'wb') as out: \
    out.write(bytes(4 << 20)); out.flush(); os.fsync(out.fileno())";

#[test]
fn run_queue_delay_and_disk_are_reasons_to_move() -> anyhow::Result<()> {
    Pair::scenario("run_queue_delay_and_disk_are_reasons_to_move", |pair| {
        let (line, _) = moves(pair, "crowd", "delay=60%/1s", CROWD)?;
        ensure!(line.starts_with("waited ") && line.contains("limit of 60%"), "{line}");
        let (line, _) = moves(pair, "writer", "disk=1MiB/s/2s", WRITER)?;
        ensure!(line.starts_with("reads and writes ") && line.contains("1 MiB/s"), "{line}");
        Ok(())
    })
}

#[test]
fn what_an_app_uses_is_explained_wherever_it_is() -> anyhow::Result<()> {
    Pair::scenario("what_an_app_uses_is_explained_wherever_it_is", |pair| {
        let script = "while True: pass";
        let args = ["run", "--name", "spinner", "--detach", "--", "/usr/bin/python3", "-c", script];
        pair.home().phantom(true, &args)?;
        let explained = || -> anyhow::Result<bool> {
            let text = pair.home().phantom(true, &["explain", "spinner"])?.stdout;
            let note = text.lines().find(|line| line.starts_with("Note: it uses "));
            let words = ["of a core", "of memory", "for a CPU", "over the network", "on disks"];
            let busy =
                |note: &str| !note.contains("uses 0%") && words.iter().all(|it| note.contains(it));
            Ok(note.is_some_and(busy))
        };
        wait_until("what it uses at home", SOON, explained)?;
        pair.migrate("spinner", "cellar")?;
        wait_until("what it uses away", SOON, explained)?;
        pair.home().phantom(true, &["kill", "-s", "KILL", "spinner"]).map(drop)
    })
}

/// Processes that keep every core busy until this is dropped.
struct Crush(Vec<Child>);

impl Crush {
    fn new() -> anyhow::Result<Self> {
        let spin = || Command::new("sh").args(["-c", "while :; do :; done"]).spawn();
        let cores = std::thread::available_parallelism()?.get();
        Ok(Self((0..cores + 1).map(|_| spin()).collect::<Result<_, _>>()?))
    }
}

impl Drop for Crush {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn a_stuttering_desktop_gives_away_its_heaviest_app() -> anyhow::Result<()> {
    if !PathBuf::from("/proc/pressure/cpu").exists() {
        println!("SKIP a_stuttering_desktop_gives_away_its_heaviest_app: this kernel has no PSI");
        return Ok(());
    }
    Pair::scenario("a_stuttering_desktop_gives_away_its_heaviest_app", |pair| {
        pair.home().configure("stutter", Some("\"40%/4s\""))?;
        pair.home().restart_daemon()?;
        pair.wait_connected()?;
        let idle = "import time\nwhile True: time.sleep(0.2)";
        for (name, script) in [("light", idle), ("heavy", "while True: pass")] {
            let args = ["run", "--name", name, "--detach", "--", "/usr/bin/python3", "-c", script];
            pair.home().phantom(true, &args)?;
        }
        wait_until("what they use", SOON, || {
            Ok(pair.row("heavy")?.and_then(|row| row.cpu_percent).is_some_and(|cpu| cpu > 20))
        })?;
        let crush = Crush::new()?;
        pair.wait_for_host("heavy", "cellar")
            .with_context(|| format!("{:#?}", pair.events("heavy")))?;
        drop(crush);
        let events = pair.events("heavy")?;
        let verdict = events.iter().find(|event| event.event == "verdict").context("a verdict")?;
        ensure!(verdict.detail.contains("while it stutters"), "{verdict:?}");
        ensure!(verdict.detail.contains("limit of 40%"), "{verdict:?}");
        ensure!(pair.row("light")?.is_some_and(|row| row.host == "attic"), "one is enough");
        for name in ["light", "heavy"] {
            pair.home().phantom(true, &["kill", "-s", "KILL", name])?;
        }
        Ok(())
    })
}

#[test]
fn a_soft_limit_holds_the_app_or_says_why_it_cannot() -> anyhow::Result<()> {
    Pair::scenario("a_soft_limit_holds_the_app_or_says_why_it_cannot", |pair| {
        let (_, events) = moves(pair, "soft", "cpu=25%/1s/soft", "while True: pass")?;
        let held = events.iter().find(|event| event.event == "held").context("no word of it")?;
        let reason = "not at all: nothing can be held to a limit: the `cpu` controller";
        let told = held.detail == "to 25% of a core" || held.detail.starts_with(reason);
        ensure!(told, "{held:?}");
        Ok(())
    })
}

#[test]
fn a_program_that_phantom_did_not_start_is_reported_once() -> anyhow::Result<()> {
    Pair::scenario("a_program_that_phantom_did_not_start_is_reported_once", |pair| {
        let home = pair.home();
        // A name of its own, so that no other process of this machine fits.
        let name = format!("spin{}", home.pid());
        let rule = format!("[{{ name = \"{name}*\", user = \"ada\", limits = \"cpu=30%/10s\" }}]");
        home.configure("watch", Some(&rule))?;
        home.restart_daemon()?;
        let path = home.home_dir().join(&name);
        std::fs::copy("/bin/sh", &path)?;
        let mut command =
            home.command(true, &[&format!("/home/ada/{name}"), "-c", "while :; do :; done"]);
        let mut program = command.stdin(Stdio::null()).spawn()?;
        let listed = || anyhow::Ok(home.phantom(false, &["qos"])?.stdout);
        let found = wait_until("the report", Duration::from_secs(60), || {
            Ok(listed()?.contains(&format!("Watched: {name} of ada")))
        });
        let text = listed()?;
        ensure!(text.contains("of the time for a CPU, "), "{text}");
        let told =
            |log: &str| log.matches(&format!("phantom run --limit cpu=30%/10s -- {name}")).count();
        let log = home.daemon_log();
        // `command` enters the node's namespaces by way of other programs.
        home.signal_all(&name, nix::sys::signal::Signal::SIGKILL);
        program.wait()?;
        found.with_context(|| format!("{text}\n{log}"))?;
        ensure!(text.contains("it would move") && told(&log) == 1, "{text}\n{log}");
        wait_until("the end of it", SOON, || Ok(!listed()?.contains("Watched: ")))
    })
}

#[test]
fn rules_that_cannot_be_kept_are_named() -> anyhow::Result<()> {
    Pair::scenario("rules_that_cannot_be_kept_are_named", |pair| {
        let home = pair.home();
        home.kill_daemon()?;
        for (key, value, words) in [
            ("watch", "[{ limits = \"cpu=1%\" }]", "names no programs"),
            ("watch", "[{ user = \"ada\", limits = \"\" }]", "has no limits"),
            (
                "watch",
                "[{ user = \"ada\", limits = \"net=1MB/s\" }]",
                "cannot be watched of programs",
            ),
            ("stutter", "\"lots\"", "not a share of the time"),
        ] {
            home.configure(key, Some(value))?;
            let output = home.phantom(false, &["up", "--no-wait"])?;
            home.configure(key, None)?;
            let said = output.stderr;
            ensure!(output.code != 0 && said.contains(words), "{key} = {value}: {said}");
            ensure!(said.contains("phantom.toml"), "{said}");
        }
        home.up(&[])
    })
}

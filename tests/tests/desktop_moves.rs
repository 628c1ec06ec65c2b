//! Moves between whole machines that lose their power, fall asleep, or have a bad line.

use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::counter::{COUNTER, counted_once};
use phantom_tests::desktops::{Desktop, Lan, Release, visit};
use phantom_tests::node::{MOVE, Node, wait_until};
use phantom_tests::terminal::{Key, Terminal};

/// What a node has of apps: folders and shims.
const LEFT: &str = "ls /run/phantom/apps; pgrep -f '^phantom shim' || :";
/// How long things may take on a translated machine beside others.
const LONG: Duration = Duration::from_secs(300);

/// ada's desktop and another one that know each other; the second stops at a border of every move.
fn pair(lan: &Lan, hold_at: Option<&str>) -> anyhow::Result<(Desktop, Desktop)> {
    let attic = lan.desktop("attic").release(Release::Debian12).person("ada", 1000).start()?;
    let cellar = lan.desktop("cellar").person("bob", 1500).start()?;
    if let Some(border) = hold_at {
        cellar.run(&format!("echo 'hold_at = \"{border}\"' >> /etc/phantom/phantom.toml"))?;
    }
    attic.found()?;
    attic.let_in(&cellar)?;
    Ok((attic, cellar))
}

/// Runs a scenario; what the desktops' logs say comes with a failure.
fn scenario(
    lan: &Lan,
    hold_at: Option<&str>,
    body: impl FnOnce(&mut Desktop, &mut Desktop) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (mut attic, mut cellar) = pair(lan, hold_at)?;
    let result = body(&mut attic, &mut cellar);
    if let Err(error) = &result {
        eprintln!(
            "{error:#}
{}{}",
            attic.logs(),
            cellar.logs()
        );
        visit::keep_failed(&[&attic, &cellar])?;
    }
    result
}

/// A Python REPL under observation.
struct Repl {
    terminal: Terminal,
    count: u32,
}

impl Repl {
    fn start(home: &Desktop) -> anyhow::Result<Self> {
        let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-q"];
        let mut terminal = home.terminal(&args)?;
        terminal.expect(">>> ", MOVE)?;
        terminal.type_line("n = 0; state = {k: k * k for k in range(1000)}")?;
        terminal.expect(">>> ", MOVE)?;
        Ok(Self { terminal, count: 0 })
    }

    /// Runs a line and waits for what it prints.
    fn run(&mut self, line: &str, printed: &str) -> anyhow::Result<()> {
        self.terminal.type_line(line)?;
        // The echo comes first.
        self.terminal.expect("\n", MOVE)?;
        self.terminal.expect(printed, LONG)
    }

    /// It answers, and its state is what it was.
    fn answers(&mut self) -> anyhow::Result<()> {
        self.count += 1;
        let wanted = format!("count {} 1000 961", self.count);
        self.run("n += 1; print('count', n, len(state), state[31])", &wanted)
    }

    fn end(mut self) -> anyhow::Result<()> {
        // Typed before the prompt, ^D would not reach readline.
        self.terminal.expect(">>> ", MOVE)?;
        self.terminal.press(Key::Ctrl('d'))?;
        ensure!(self.terminal.wait(MOVE)? == 0, "the REPL ended badly");
        Ok(())
    }
}

/// Starts a move and waits until the other node holds it.
fn held_move(home: &Desktop, other: &Desktop) -> anyhow::Result<Terminal> {
    let moving = home.terminal(&["migrate", "repl", other.name()])?;
    other.run_for("while [ ! -e /run/phantom/held ]; do sleep 0.1; done", LONG)?;
    Ok(moving)
}

#[test]
fn a_target_loses_its_power_in_the_middle_of_a_move() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    scenario(&lan, Some("target:restore"), |attic, cellar| {
        let mut repl = Repl::start(attic)?;
        repl.answers()?;
        let mut moving = held_move(attic, cellar)?;
        cellar.kill_power()?;
        moving.expect("repl stays on attic", LONG)?;
        ensure!(moving.wait(MOVE)? == 1, "a move to a dead machine");
        repl.answers()?;
        // It comes back with its key, its certificate and nothing of the app.
        cellar.power_on()?;
        cellar.run("sed -i /hold_at/d /etc/phantom/phantom.toml")?;
        cellar.up(&[])?;
        attic.wait_for_nodes(2)?;
        attic.migrate("repl", "cellar")?;
        attic.wait_for_host("repl", "cellar")?;
        repl.answers()?;
        repl.end()
    })
}

#[test]
fn a_home_loses_its_power_in_the_middle_of_a_move() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    scenario(&lan, Some("target:restore"), |attic, cellar| {
        let mut repl = Repl::start(attic)?;
        repl.answers()?;
        let moving = held_move(attic, cellar)?;
        attic.kill_power()?;
        drop(moving);
        cellar.run("touch /run/phantom/go")?;
        attic.power_on()?;
        attic.up(&[])?;
        attic.wait_for_nodes(2)?;
        // The app has gone with the machine it ran on. Nobody claims that it runs, and the copy
        // that was on its way is not left behind.
        ensure!(attic.row("repl")?.is_none(), "an app of before the power cut is shown");
        wait_until("the end of what had arrived on cellar", LONG, || {
            let left = cellar.run(LEFT)?;
            Ok(left.trim().is_empty())
        })?;
        // And both work as before.
        cellar.run("rm -f /run/phantom/held /run/phantom/go; sed -i /hold_at/d /etc/phantom/phantom.toml; kill $(cat /run/phantom/daemon.pid); while [ -e /run/phantom/daemon.pid ]; do sleep 0.1; done")?;
        cellar.up(&[])?;
        attic.wait_for_nodes(2)?;
        let mut again = Repl::start(attic)?;
        attic.migrate("repl", "cellar")?;
        again.answers()?;
        again.end()
    })
}

#[test]
fn a_laptop_sleeps_and_wakes_with_a_stale_copy() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    scenario(&lan, Some("target:resume"), |attic, laptop| {
        let mut repl = Repl::start(attic)?;
        repl.run(COUNTER, "started")?;
        let mut moving = held_move(attic, laptop)?;
        laptop.fall_asleep()?;
        let asleep = std::time::Instant::now();
        moving.expect("repl stays on attic", LONG)?;
        repl.answers()?;
        let row = attic.row("repl")?.context("it runs")?;
        ensure!(row.host == "attic" && row.epoch == 3, "{row:?}");
        // The half minute of the lid is over.
        std::thread::sleep(Duration::from_secs(30).saturating_sub(asleep.elapsed()));
        laptop.wake_up()?;
        laptop.run("touch /run/phantom/go")?;
        wait_until("the end of the stale copy", LONG, || {
            let left = laptop.run(LEFT)?;
            Ok(left.trim().is_empty())
        })?;
        repl.answers()?;
        let log = attic.shell("cat log")?;
        counted_once(&log)?;
        attic.wait_for_nodes(2)?;
        repl.end()
    })
}

/// A shell, for a line that needs minutes for what Python brings along.
#[test]
fn a_program_moves_over_a_slow_line_with_loss() -> anyhow::Result<()> {
    let lan = Lan::new()?.delay_ms(20).loss_percent(1.0).rate_kbit(1000);
    scenario(&lan, None, |attic, cellar| {
        let mut shell = attic.terminal(&["run", "--name", "shell", "--", "/bin/sh"])?;
        let mut answers = |count: u32| -> anyhow::Result<()> {
            shell.type_line("n=$((n+1)); echo count $n")?;
            shell.expect(&format!("count {count}\r"), LONG)
        };
        answers(1)?;
        let begun = std::time::Instant::now();
        let mut moving = attic.terminal(&["migrate", "shell", "cellar"])?;
        // Typed while it is on its way.
        answers(2)?;
        let code = moving.wait(LONG)?;
        ensure!(code == 0, "the move: {}", moving.screen_text());
        println!("NOTE a move over 1 Mbit/s with 1% loss: {:.0} s", begun.elapsed().as_secs_f64());
        attic.wait_for_host("shell", cellar.name())?;
        answers(3)?;
        attic.shell("echo found > notes")?;
        shell.type_line("read word < notes; echo it is $word; exit 7")?;
        shell.expect("it is found", LONG)?;
        ensure!(shell.wait(LONG)? == 7, "the shell's exit code");
        Ok(())
    })
}

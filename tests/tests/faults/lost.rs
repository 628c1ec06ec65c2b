//! The home is lost while the app is away.

use std::time::Duration;

use anyhow::ensure;
use nix::sys::signal::Signal;
use phantom_tests::lab::{MOVE, Node, Pair, SOON, Things, processes_beginning, wait_until};

use crate::session::Session;

#[test]
fn a_lost_home_is_an_error_and_never_a_hang() -> anyhow::Result<()> {
    Pair::scenario("a_lost_home_is_an_error_and_never_a_hang", |pair| {
        let mut session = Session::start(pair, "repl")?;
        // Tries a file again and again and notes in memory how it went and how long it took.
        session.run(PROBE, "probing")?;
        pair.migrate("repl", "cellar")?;
        session.run("print(sum(1 for p in probes if p[0] == 0) > 0)", "True")?;
        pair.set_link(false)?;
        pair.home().kill_daemon()?;
        // Nobody can be asked; the probe itself writes to this node's own /proc by its title.
        let failed = || -> anyhow::Result<bool> {
            let titles =
                pair.away().enter(&["sh", "-c", "cat /proc/*/task/*/comm 2>/dev/null || true"])?;
            Ok(titles.stdout.lines().any(|title| title.starts_with("probe-5-")))
        };
        wait_until("an error in the app", Duration::from_secs(90), failed)?;
        pair.set_link(true)?;
        pair.home().up(&[])?;
        pair.wait_connected()?;
        session.answers()?;
        session.run("print('slowest', max(p[1] for p in probes) < 60)", "slowest True")?;
        session.run(
            "print('last', next(p for p in iter(lambda: probes[-1], 1) if p[0] == 0)[0])",
            "last 0",
        )?;
        session.lives_on(pair.away())?;
        pair.migrate("repl", "attic")?;
        session.lives_on(pair.home())?;
        ensure!(pair.home().home_dir().join("probe").exists(), "the probe's file");
        session.end()
    })
}

#[test]
fn a_guest_that_its_home_has_forgotten_ends() -> anyhow::Result<()> {
    Pair::scenario("a_guest_that_its_home_has_forgotten_ends", |pair| {
        let copies = || processes_beginning("/usr/bin/python3 -q -X forgotten ").len();
        for restart in [false, true] {
            let (before, away_before) = (Things::of(pair.home())?, Things::of(pair.away())?);
            let mut terminal = pair.home().terminal(&[
                "run",
                "--name",
                "loop",
                "--",
                "/usr/bin/python3",
                "-q",
                "-X",
                "forgotten",
            ])?;
            terminal.expect(">>> ", SOON)?;
            pair.migrate("loop", "cellar")?;
            // What holds the terminal at home dies, and nobody over there can be told.
            pair.set_link(false)?;
            pair.wait_disconnected()?;
            if restart {
                pair.home().kill_daemon()?;
            }
            ensure!(pair.home().signal_all(" shim /run/phantom", Signal::SIGKILL) == 1, "one shim");
            if restart {
                pair.home().up(&[])?;
            }
            wait_until("the home to forget the app", SOON, || Ok(pair.row("loop")?.is_none()))?;
            ensure!(copies() == 1, "nobody has told the other node");
            pair.set_link(true)?;
            wait_until("the end of the copy", MOVE, || Ok(copies() == 0))?;
            pair.wait_connected()?;
            away_before.expect_again(pair.away())?;
            before.expect_again(pair.home())?;
        }
        Ok(())
    })
}

/// Writes a file again and again; notes errno and duration, and shows both as the thread's name.
const PROBE: &str = "exec('''import threading, time, os\nprobes = []\n\
def probe():\n    while True:\n        begun = time.time(); errno = 0\n        try:\n            \
with open('probe', 'w') as out: out.write('x')\n        except OSError as error:\n            \
errno = error.errno\n        probes.append((errno, time.time() - begun))\n        \
open('/proc/thread-self/comm', 'w').write(f'probe-{errno}-')\n        time.sleep(0.1)\n\
threading.Thread(target=probe, daemon=True).start()\nprint('prob' + 'ing')''')";

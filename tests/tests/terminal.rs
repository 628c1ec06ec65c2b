//! The user's side of an app: its terminal, job control, attach and detach, and the commands that
//! show and steer it.

use anyhow::{Context, ensure};
use phantom_tests::lab::{Key, MOVE, Node, Pair, SOON, Terminal, wait_until};

/// A shell with a prompt of its own.
fn shell(pair: &Pair, name: &str) -> anyhow::Result<Terminal> {
    let args = ["run", "--name", name, "--", "/bin/bash", "--norc", "--noprofile"];
    let mut shell = pair.home().terminal(&args)?;
    shell.expect("$ ", SOON)?;
    // In two halves, so that what is printed differs from what is typed.
    shell.type_line("PS1='re''ady> '; bind 'set enable-bracketed-paste off'")?;
    shell.expect("ready> ", SOON)?;
    Ok(shell)
}

/// ^C, ^Z, fg, /dev/tty and the window size in the shell that has the terminal now.
fn check_job_control(shell: &mut Terminal, prompt: &str, cols: u16) -> anyhow::Result<()> {
    // Started is what has printed: ^C before that would only clear the line.
    shell.type_line("sh -c 'echo a-''sleep; exec sleep 1000'")?;
    shell.expect("a-sleep", SOON)?;
    shell.press(Key::Ctrl('c'))?;
    shell.expect(prompt, SOON).context("the prompt after ^C")?;
    // Says when it goes on: the shell prints the job's line before the job has the terminal. Has no
    // children: a shell that is stopped between its vfork and the child's exec waits for ever. Writes
    // past Python's buffer, whose lock a ^Z right after the text is seen would leave held.
    shell.type_line(
        "python3 -c \"import os, signal, time; signal.signal(signal.SIGCONT, lambda *_: \
         os.write(1, b'going'+b'-on')); os.write(1, b'star'+b'ted'); \
         [time.sleep(9) for _ in iter(int, 1)]\"",
    )?;
    shell.expect("started", SOON)?;
    shell.press(Key::Ctrl('z'))?;
    shell.expect("Stopped", SOON).context("the stopped job")?;
    shell.expect(prompt, SOON).context("the prompt after ^Z")?;
    shell.type_line("fg")?;
    shell.expect("going-on", SOON).context("the job in the foreground")?;
    shell.press(Key::Ctrl('c'))?;
    shell.expect(prompt, SOON).context("the prompt after fg and ^C")?;
    shell.resize(30, cols)?;
    shell.type_line("stty size; echo to-''tty > /dev/tty")?;
    shell.expect(&format!("30 {cols}"), SOON).context("the window size")?;
    shell.expect("to-tty", SOON).context("/dev/tty")?;
    shell.expect(prompt, SOON)
}

#[test]
fn job_control_works_before_and_after_a_move() -> anyhow::Result<()> {
    Pair::scenario("job_control_works_before_and_after_a_move", |pair| {
        let mut shell = shell(pair, "bash")?;
        check_job_control(&mut shell, "ready> ", 100)?;
        // A nested interactive shell is a child that was running during the move.
        shell.type_line("PS1='ne''sted> ' bash --norc --noprofile")?;
        shell.expect("nested> ", SOON)?;
        pair.migrate("bash", "cellar")?;
        check_job_control(&mut shell, "nested> ", 101).context("in the nested shell, away")?;
        pair.migrate("bash", "attic")?;
        check_job_control(&mut shell, "nested> ", 102).context("in the nested shell, at home")?;
        shell.type_line("exit")?;
        shell.expect("ready> ", SOON)?;
        shell.type_line("exit 3")?;
        ensure!(shell.wait(SOON)? == 3, "the exit code did not pass through");
        Ok(())
    })
}

#[test]
fn a_pager_at_the_end_of_a_pipe_goes_on_after_a_move() -> anyhow::Result<()> {
    Pair::scenario("a_pager_at_the_end_of_a_pipe_goes_on_after_a_move", |pair| {
        let mut shell = shell(pair, "bash")?;
        shell.type_line("seq -f 'line %g' 1 100000 | less")?;
        shell.expect_screen("line 23", SOON)?;
        pair.migrate("bash", "cellar")?;
        shell.type_text(" ")?;
        shell.expect_screen("line 46", SOON).context("the next page, away")?;
        // From the far end: seq has to write on through the pipe.
        shell.type_text("G")?;
        shell.expect_screen("line 100000", SOON).context("the last page, away")?;
        pair.migrate("bash", "attic")?;
        shell.type_text("g")?;
        shell.expect_screen("line 1\n", SOON).context("the first page, at home again")?;
        shell.type_text("q")?;
        shell.expect("ready> ", SOON)?;
        shell.type_line("exit")?;
        ensure!(shell.wait(SOON)? == 0, "the shell ended badly");
        Ok(())
    })
}

/// Busy for ten seconds of the clock on the wall, then reads what was typed meanwhile.
const BUSY_THEN_READS: &str = "
import sys, time
print('busy', flush=True)
end = time.time() + 10
while time.time() < end:
    time.sleep(0.01)
for line in sys.stdin:
    print('got', repr(line), flush=True)
print('end', 'of', 'file', flush=True)
";

#[test]
fn what_is_typed_ahead_arrives_once_after_a_move() -> anyhow::Result<()> {
    Pair::scenario("what_is_typed_ahead_arrives_once_after_a_move", |pair| {
        let args = ["run", "--name", "busy", "--", "/usr/bin/python3", "-c", BUSY_THEN_READS];
        let mut terminal = pair.home().terminal(&args)?;
        terminal.expect("busy", SOON)?;
        terminal.type_line("line one")?;
        terminal.type_line("line two")?;
        terminal.type_text("part")?;
        pair.migrate("busy", "cellar")?;
        terminal.type_line("ly here, partly there")?;
        terminal.press(Key::Ctrl('d'))?;
        pair.migrate("busy", "attic")?;
        terminal.expect("end of file", MOVE)?;
        ensure!(terminal.wait(SOON)? == 0, "the reader ended badly");
        let text = String::from_utf8_lossy(terminal.transcript()).into_owned();
        let got: Vec<&str> = text.lines().filter(|line| line.starts_with("got ")).collect();
        let wanted =
            [r"got 'line one\n'", r"got 'line two\n'", r"got 'partly here, partly there\n'"];
        ensure!(got == wanted, "it read {got:#?}");
        for typed in ["line one", "line two", "part", "ly here, partly there"] {
            let echoes = text.lines().filter(|line| !line.starts_with("got ")).collect::<String>();
            ensure!(echoes.matches(typed).count() <= 2, "`{typed}` was echoed twice: {text:?}");
        }
        Ok(())
    })
}

#[test]
fn a_terminal_detaches_and_others_attach() -> anyhow::Result<()> {
    Pair::scenario("a_terminal_detaches_and_others_attach", |pair| {
        let mut first = shell(pair, "bash")?;
        first.type_line("secret=42")?;
        first.expect("ready> ", SOON)?;
        first.type_text("\r~d")?;
        first.expect("Detached", SOON)?;
        ensure!(first.wait(SOON)? == 0, "detaching is no failure");
        let mut second = pair.home().terminal(&["attach", "bash"])?;
        let mut third = pair.home().terminal(&["attach", "bash"])?;
        second.type_line("echo from-second $((secret + 1))")?;
        second.expect("from-second 43", SOON)?;
        third.expect("from-second 43", SOON).context("both terminals show the same")?;
        pair.migrate("bash", "cellar")?;
        third.type_line("echo from-third $((secret + 2))")?;
        third.expect("from-third 44", SOON)?;
        second.expect("from-third 44", SOON)?;
        // Detached while it is away, and attached again there.
        second.type_text("\r~d")?;
        ensure!(second.wait(SOON)? == 0, "detaching is no failure");
        third.type_text("\r~d")?;
        ensure!(third.wait(SOON)? == 0, "detaching is no failure");
        let mut fourth = pair.home().terminal(&["attach", "bash"])?;
        fourth.type_line("echo from-fourth $((secret + 3)); exit 5")?;
        fourth.expect("from-fourth 45", SOON)?;
        ensure!(fourth.wait(SOON)? == 5, "the exit code did not pass through");
        let late = pair.home().phantom(true, &["attach", "bash"])?;
        ensure!(late.code == 2 && late.stderr.lines().count() == 1, "{late:?}");
        Ok(())
    })
}

#[test]
fn an_app_outlives_its_terminals() -> anyhow::Result<()> {
    Pair::scenario("an_app_outlives_its_terminals", |pair| {
        let home = pair.home();
        // Nobody looks at it, and still it comes to its end.
        let noisy = "for n in range(100000): print('line', n)\nopen('done', 'w').close()";
        let args = ["run", "--detach", "--name", "noisy", "--", "/usr/bin/python3", "-c", noisy];
        let started = home.phantom(true, &args)?;
        ensure!(started.code == 0, "{started:?}");
        wait_until("the end of an app without a terminal", SOON, || {
            Ok(home.home_dir().join("done").exists() && pair.row("noisy")?.is_none())
        })?;
        for host in ["cellar", "attic"] {
            let name = format!("sh-{host}");
            // Dropped: killed with its terminal, as by a closed window.
            drop(shell(pair, &name)?);
            pair.migrate(&name, "cellar")?;
            let mut back = home.terminal(&["attach", &name])?;
            back.type_line("echo he''re $((6 * 7))")?;
            back.expect("here 42", SOON)?;
            drop(back);
            if host == "attic" {
                pair.migrate(&name, "attic")?;
            }
            let mut again = home.terminal(&["attach", &name])?;
            again.type_line("echo the''re $((6 * 7)); exit 6")?;
            again.expect("there 42", SOON)?;
            ensure!(again.wait(SOON)? == 6, "the exit code did not pass through");
        }
        Ok(())
    })
}

/// Reads its terminal raw, but only once it is told to by a file.
const READS_LATE: &str = "
import os, sys, time, tty
tty.setraw(0)
print('ready', end='\\r\\n', flush=True)
while not os.path.exists('go'):
    time.sleep(0.05)
with open('pasted.log', 'wb') as log:
    got = b''
    while not got.endswith(b'.'):
        got = os.read(0, 65536)
        log.write(got)
print('end', end='\\r\\n', flush=True)
";

#[test]
fn a_large_paste_that_nobody_reads_moves_too() -> anyhow::Result<()> {
    Pair::scenario("a_large_paste_that_nobody_reads_moves_too", |pair| {
        let args = ["run", "--name", "late", "--", "/usr/bin/python3", "-c", READS_LATE];
        let mut terminal = pair.home().terminal(&args)?;
        terminal.expect("ready", SOON)?;
        let pasted: String = (0..12_000).map(|n| format!("{n:07}\r")).collect();
        // Bit by bit at first: a terminal takes more of that than of the same bytes at once, so
        // what this one holds does not fit into the next.
        let (bit_by_bit, at_once) = pasted.split_at(20_000);
        for bit in bit_by_bit.as_bytes().chunks(100) {
            terminal.type_text(std::str::from_utf8(bit)?)?;
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        terminal.type_text(at_once)?;
        for host in ["cellar", "attic", "cellar"] {
            pair.migrate("late", host)?;
        }
        terminal.type_text("typed after.")?;
        std::fs::write(pair.home().home_dir().join("go"), "")?;
        terminal.expect("end", MOVE)?;
        ensure!(terminal.wait(SOON)? == 0, "the reader ended badly");
        let got = std::fs::read(pair.home().home_dir().join("pasted.log"))?;
        let wanted = format!("{pasted}typed after.");
        let same = got.iter().zip(wanted.as_bytes()).take_while(|(a, b)| a == b).count();
        ensure!(
            got == wanted.as_bytes(),
            "{} bytes arrived of {}, the first {same} as typed",
            got.len(),
            wanted.len()
        );
        Ok(())
    })
}

/// Says which signals it gets.
const SIGNALLED: &str = "
import signal, sys, time
def got(number, frame):
    print('got', signal.Signals(number).name, flush=True)
for number in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, got)
print('waiting', flush=True)
while True:
    time.sleep(1)
";

#[test]
fn signals_reach_an_app_wherever_it_is() -> anyhow::Result<()> {
    Pair::scenario("signals_reach_an_app_wherever_it_is", |pair| {
        let home = pair.home();
        let args = ["run", "--name", "sig", "--", "/usr/bin/python3", "-c", SIGNALLED];
        let mut terminal = home.terminal(&args)?;
        terminal.expect("waiting", SOON)?;
        for host in ["attic", "cellar"] {
            if host == "cellar" {
                pair.migrate("sig", "cellar")?;
            }
            for (signal, name) in [("USR1", "SIGUSR1"), ("sigint", "SIGINT"), ("1", "SIGHUP")] {
                let sent = home.phantom(true, &["kill", "-s", signal, "sig"])?;
                ensure!(sent.code == 0, "kill -s {signal} on {host}: {sent:?}");
                terminal.expect(&format!("got {name}"), SOON)?;
            }
        }
        ensure!(home.phantom(true, &["kill", "sig"])?.code == 0, "kill");
        ensure!(terminal.wait(SOON)? == 143, "128 + SIGTERM");
        wait_until("the app's end in `ps`", SOON, || Ok(pair.row("sig")?.is_none()))
    })
}

#[test]
fn an_app_is_shown_and_explained() -> anyhow::Result<()> {
    Pair::scenario("an_app_is_shown_and_explained", |pair| {
        let home = pair.home();
        let args = ["run", "--name", "loop", "--limit", "memory=4GiB", "--", "sleep", "1000"];
        let _terminal = home.terminal(&args)?;
        wait_until("the app in `ps`", SOON, || Ok(pair.row("loop")?.is_some()))?;
        let detached = home.phantom(true, &["run", "--detach", "--", "/bin/sleep", "1001"])?;
        ensure!(detached.code == 0, "{detached:?}");
        ensure!(pair.row("sleep")?.is_some(), "an app without a name is called by its command");
        let explained: serde_json::Value = home.phantom_json(true, &["explain", "loop"])?;
        ensure!(explained["movable"] == true, "{explained:#}");
        ensure!(explained["target"] == "cellar", "{explained:#}");
        pair.migrate("loop", "cellar")?;
        let row = pair.row("loop")?.context("it is gone")?;
        ensure!((row.host.as_str(), row.home.as_str()) == ("cellar", "attic"), "{row:?}");
        let log = pair.events("loop")?;
        let place = |event: &str| log.iter().position(|row| row.event == event);
        let steps = ["start", "prepare", "freeze", "dump", "restore", "commit", "resume"];
        let places: Option<Vec<usize>> = steps.iter().map(|step| place(step)).collect();
        ensure!(places.context("a step is missing")?.is_sorted(), "out of order: {log:#?}");
        let text = home.phantom(true, &["ps"])?.stdout;
        ensure!(text.starts_with("NAME") && text.contains("memory=4GiB"), "{text}");
        // The other node's root sees no app that is at home elsewhere, and its user none at all.
        let there: Vec<serde_json::Value> = pair.away().phantom_json(true, &["ps"])?;
        ensure!(there.is_empty(), "{there:?}");
        for app in ["loop", "sleep"] {
            ensure!(home.phantom(true, &["kill", "-s", "KILL", app])?.code == 0, "kill {app}");
        }
        wait_until("the apps' end", SOON, || {
            Ok(pair.row("loop")?.is_none() && pair.row("sleep")?.is_none())
        })
    })
}

#[test]
fn wrong_use_is_answered_with_one_line_and_exit_code_2() -> anyhow::Result<()> {
    Pair::scenario("wrong_use_is_answered_with_one_line_and_exit_code_2", |pair| {
        let home = pair.home();
        let started =
            home.phantom(true, &["run", "--detach", "--name", "app", "--", "sleep", "1000"])?;
        ensure!(started.code == 0, "{started:?}");
        let wrong: [(&[&str], &str); 10] = [
            (&["explain", "nobody"], "nobody"),
            (&["attach", "nobody"], "nobody"),
            (&["kill", "nobody"], "nobody"),
            (&["log", "../x"], "../x"),
            (&["migrate", "nobody"], "nobody"),
            (&["migrate", "app", "nowhere"], "nowhere"),
            (&["kill", "-s", "NOSUCH", "app"], "NOSUCH"),
            (&["run", "--limit", "cpu=15x", "--", "true"], "cpu=15x"),
            (&["run", "--name", "two words", "--", "true"], "two words"),
            (&["run", "--name", "app", "--", "true"], "already"),
        ];
        for (args, word) in wrong {
            let output = home.phantom(true, args)?;
            ensure!(output.code == 2, "{args:?}: exit code {}: {}", output.code, output.stderr);
            ensure!(output.stderr.trim_end().lines().count() == 1, "{args:?}: {}", output.stderr);
            ensure!(output.stderr.contains(word), "{args:?}: {}", output.stderr);
        }
        let absent = home.phantom(true, &["run", "--", "/no/such/program"])?;
        ensure!(absent.code == 127, "as shells say it: {absent:?}");
        ensure!(absent.stdout.contains("/no/such/program: command not found"), "{absent:?}");
        ensure!(home.phantom(true, &["kill", "-s", "9", "app"])?.code == 0, "kill");
        Ok(())
    })
}

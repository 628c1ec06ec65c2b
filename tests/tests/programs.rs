//! Programs that are hard to move: loud ones, crowded ones, with strange names or old files.

use std::io::Read;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Key, LabNode, MOVE, Node, Pair, SOON, Terminal};

/// Prints numbered lines as fast as it can until it finds a file named `stop`.
const LOUD: &str = "
import os, sys
n = 0
while not os.path.exists('stop'):
    sys.stdout.write(''.join(f'{i:08} the quick brown fox jumps over the lazy dog\\n' for i in range(n, n + 500)))
    n += 500
print('lines', n, flush=True)
";

#[test]
fn output_at_full_speed_arrives_whole() -> anyhow::Result<()> {
    Pair::scenario("output_at_full_speed_arrives_whole", |pair| {
        let args = ["run", "--name", "loud", "--", "/usr/bin/python3", "-c", LOUD];
        let mut command = pair.home().phantom_command(true, &args);
        // Standard input stays open: its end would be a ^D.
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let mut stdout = child.stdout.take().context("no output")?;
        let reader = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            stdout.read_to_end(&mut bytes).map(|_| bytes)
        });
        let moved =
            phantom_tests::lab::wait_until("the app", SOON, || Ok(pair.row("loud")?.is_some()))
                .and_then(|()| pair.migrate("loud", "cellar"))
                .and_then(|_| pair.migrate("loud", "attic"));
        std::fs::write(pair.home().home_dir().join("stop"), "")?;
        let status = child.wait()?;
        moved?;
        ensure!(status.success(), "it ended with {status}");
        let bytes = reader.join().map_err(|_| anyhow::anyhow!("the reader failed"))??;
        // Lines of Phantom itself stand between those of the program.
        let text = String::from_utf8(bytes).context("garbled output")?;
        let lines = text.lines().filter(|line| !line.starts_with("phantom: "));
        let mut count = 0;
        for line in lines.clone().filter(|line| line.ends_with("lazy dog")) {
            let wanted = format!("{count:08} the quick brown fox jumps over the lazy dog");
            ensure!(line == wanted, "line {count} is {line:?}");
            count += 1;
        }
        ensure!(
            text.contains(&format!("lines {count}")),
            "{count} lines arrived, more were printed"
        );
        println!("{count} lines, {} MiB", text.len() >> 20);
        Ok(())
    })
}

#[test]
fn short_commands_are_heard_to_the_end() -> anyhow::Result<()> {
    Pair::scenario("short_commands_are_heard_to_the_end", |pair| {
        for round in 0..10 {
            let script = format!("echo first {round}; seq 1 3000; echo last {round}; exit 3");
            let output = pair.home().phantom(true, &["run", "--", "sh", "-c", &script])?;
            ensure!(output.code == 3, "round {round}: {output:?}");
            let whole = output.stdout.starts_with(&format!("first {round}\r\n1\r\n"))
                && output.stdout.ends_with(&format!("3000\r\nlast {round}\r\n"));
            ensure!(whole, "round {round}: {output:?}");
        }
        Ok(())
    })
}

/// Forks 1,000 children that end at once and 50 that stay, and counts those that answer.
const CROWD: &str = "
import os, signal, sys
for n in range(1000):
    if os.fork() == 0:
        os._exit(0)
for n in range(1000):
    os.wait()
ours, theirs = os.pipe()
children = []
for n in range(50):
    pid = os.fork()
    if pid == 0:
        # Not with a handler and pause(): a signal just before pause() would wait for the next.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
        os.write(theirs, b'x')
        while signal.sigwait([signal.SIGUSR1]):
            os.write(theirs, b'x')
    children.append(pid)
def count():
    answers = 0
    while answers < 50:
        answers += len(os.read(ours, 50))
    return answers
print('started', count(), flush=True)
for line in sys.stdin:
    for pid in children:
        os.kill(pid, signal.SIGUSR1)
    print('answered', count(), flush=True)
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
";

#[test]
fn whoever_sees_a_program_end_finds_its_name_free() -> anyhow::Result<()> {
    Pair::scenario("whoever_sees_a_program_end_finds_its_name_free", |pair| {
        let args = ["run", "--name", "same", "--", "sh", "-c", "exit 3"];
        let mut times = Vec::new();
        for _ in 0..20 {
            let begun = std::time::Instant::now();
            let output = pair.home().phantom(true, &args)?;
            ensure!(output.code == 3, "{output:?}");
            times.push(begun.elapsed());
            ensure!(pair.row("same")?.is_none(), "`phantom ps` shows it still");
        }
        times.sort();
        println!("median of a short command: {:?}", times[times.len() / 2]);
        for _ in 0..3 {
            let mut shell = pair.home().terminal(&["run", "--name", "same", "--", "sh"])?;
            pair.wait_for_host("same", "attic")?;
            pair.migrate("same", "cellar")?;
            shell.type_line("exit 4")?;
            ensure!(shell.wait(SOON)? == 4, "its exit code");
            ensure!(pair.row("same")?.is_none(), "`phantom ps` shows it still, away");
        }
        // Without a daemon, too, programs end.
        let mut shell = pair.home().terminal(&["run", "--name", "same", "--", "sh"])?;
        pair.wait_for_host("same", "attic")?;
        pair.home().kill_daemon()?;
        shell.type_line("exit 5")?;
        ensure!(shell.wait(SOON)? == 5, "its exit code");
        pair.home().up(&[])?;
        ensure!(pair.row("same")?.is_none(), "it ended while there was no daemon");
        Ok(())
    })
}

#[test]
fn a_program_with_many_children_moves() -> anyhow::Result<()> {
    Pair::scenario("a_program_with_many_children_moves", |pair| {
        let args = ["run", "--name", "crowd", "--", "/usr/bin/python3", "-c", CROWD];
        let mut terminal = pair.home().terminal(&args)?;
        terminal.expect("started 50", MOVE)?;
        for host in ["cellar", "attic"] {
            pair.migrate("crowd", host)?;
            terminal.type_line("")?;
            terminal.expect("answered 50", MOVE).with_context(|| format!("on {host}"))?;
        }
        terminal.press(Key::Ctrl('d'))?;
        ensure!(terminal.wait(SOON)? == 0, "it ended badly");
        Ok(())
    })
}

/// Tells its working directory and argument, then makes a file for each line.
const NAMES: &str = "
import os, sys
print('in', os.getcwdb(), 'with', os.fsencode(sys.argv[1]), flush=True)
for line in sys.stdin:
    name = b'f\\xfcr ' + line.strip().encode()
    with open(name, 'wb') as file:
        file.write(name)
    print('made', name, name in os.listdir(b'.'), os.getcwdb(), flush=True)
";

#[test]
fn names_that_are_no_utf8_stay_as_they_are() -> anyhow::Result<()> {
    Pair::scenario("names_that_are_no_utf8_stay_as_they_are", |pair| {
        strange_names(pair, b"ada/caf\xe9", r"/home/ada/caf\xe9")
    })
}

#[test]
fn a_working_directory_outside_the_home_may_have_any_name() -> anyhow::Result<()> {
    Pair::scenario("a_working_directory_outside_the_home_may_have_any_name", |pair| {
        strange_names(pair, b"work [caf\xe9] a:b", r"/home/work [caf\xe9] a:b")
    })
}

/// Works in a folder below /home, at home, away and at home again; `shown` is how Python shows it.
fn strange_names(pair: &Pair, folder: &[u8], shown: &str) -> anyhow::Result<()> {
    let home = pair.home();
    let homes = home.home_dir().with_file_name("");
    let name = std::ffi::OsString::from_vec(folder.to_vec());
    let inside = PathBuf::from("/home").join(&name);
    let folder = homes.join(&name);
    std::fs::create_dir(&folder)?;
    nix::unistd::chown(&folder, Some(1000.into()), Some(1000.into()))?;
    let script = r#"cd "$0" && exec "$1" run --name names -- /usr/bin/python3 -c "$2" "$(printf 'arg\377')""#;
    let mut command = home.command(true, &["sh", "-c", script]);
    command.arg(inside).args([home.phantom_path(), NAMES]);
    let mut terminal = Terminal::spawn(command, 24, 80)?;
    terminal.expect(&format!(r"in b'{shown}' with b'arg\xff'"), SOON)?;
    for (host, word) in [("", "first"), ("cellar", "away"), ("attic", "home")] {
        if !host.is_empty() {
            pair.migrate("names", host)?;
        }
        terminal.type_line(word)?;
        terminal.expect(&format!(r"made b'f\xfcr {word}' True b'{shown}'"), MOVE)?;
        let name = [b"f\xfcr ", word.as_bytes()].concat();
        let path = folder.join(std::ffi::OsString::from_vec(name.clone()));
        ensure!(std::fs::read(&path)? == name, "{path:?} holds something else");
    }
    terminal.press(Key::Ctrl('d'))?;
    ensure!(terminal.wait(SOON)? == 0, "it ended badly");
    Ok(())
}

/// A Python REPL with `os` at hand.
fn repl(node: &LabNode) -> anyhow::Result<Terminal> {
    let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-q"];
    let mut repl = node.terminal(&args)?;
    repl.expect(">>> ", SOON)?;
    repl.type_line("import os, hashlib, mmap, ctypes")?;
    repl.expect(">>> ", SOON)?;
    Ok(repl)
}

#[test]
fn files_saved_away_are_at_home_at_once() -> anyhow::Result<()> {
    Pair::scenario("files_saved_away_are_at_home_at_once", |pair| {
        let folder = pair.home().home_dir();
        let mut repl = repl(pair.home())?;
        repl.type_line(
            "log = open('log', 'a', buffering=1); print('opened', log.write('one\\n'))",
        )?;
        repl.expect("opened 4", SOON)?;
        pair.migrate("repl", "cellar")?;
        let here = std::fs::read(folder.join("log"))?;
        ensure!(here == b"one\n", "{here:?}");
        repl.type_line("os.umask(0o027); f = open('new', 'w'); print('wrote', f.write('x' * 300000)); f.close(); print('closed')")?;
        repl.expect("\nclosed", SOON)?;
        let new = std::fs::metadata(folder.join("new"))?;
        ensure!((new.uid(), new.gid(), new.mode() & 0o777) == (1000, 1000, 0o640), "{new:?}");
        ensure!(new.len() == 300_000, "{} bytes are at home", new.len());
        repl.type_line("os.rename('new', 'newer'); os.symlink('newer', 'link'); os.mkdir('dir'); print('made', os.readlink('link'))")?;
        repl.expect("\nmade newer", SOON)?;
        ensure!(std::fs::read_link(folder.join("link"))?.to_str() == Some("newer"), "the link");
        ensure!(!folder.join("new").exists() && folder.join("dir").is_dir(), "the names");
        repl.type_line("print('appended', log.write('two\\n'))")?;
        repl.expect("\nappended", SOON)?;
        let text = std::fs::read_to_string(folder.join("log"))?;
        ensure!(text == "one\ntwo\n", "{text:?}");
        // And the other way: what changes at home is seen away by whoever opens it.
        std::fs::write(folder.join("newer"), "changed at home")?;
        repl.type_line("print('read', open('newer').read())")?;
        repl.expect("\nread changed at home", SOON)?;
        repl.type_line("open('/etc/passwd', 'a')")?;
        repl.expect("Error", SOON).context("system files are read-only")?;
        repl.type_line("exit()")?;
        ensure!(repl.wait(SOON)? == 0, "the REPL ended badly");
        Ok(())
    })
}

#[test]
fn mapped_files_replaced_at_home_during_a_move_do_no_harm() -> anyhow::Result<()> {
    Pair::scenario("mapped_files_replaced_at_home_during_a_move_do_no_harm", |pair| {
        let folder = pair.home().home_dir();
        let script = "cp $(ls /usr/lib/*/libz.so.1 /lib/*/libz.so.1 | head -n 1) lib.so && \
                      seq 1 300000 > data && chmod 644 lib.so data";
        let made = pair.home().command(true, &["sh", "-c", script]).status()?;
        ensure!(made.success(), "no libz to copy");
        let mut repl = repl(pair.home())?;
        repl.type_line("lib = ctypes.CDLL('./lib.so'); lib.zlibVersion.restype = ctypes.c_char_p")?;
        repl.type_line("m = mmap.mmap(os.open('data', 0), 0, access=mmap.ACCESS_READ)")?;
        repl.type_line("def see(): return hashlib.md5(m).hexdigest(), lib.zlibVersion(), lib.adler32(1, b'abc', 3)\n")?;
        repl.type_line("before = see(); print('seen', len(before))")?;
        repl.expect("\nseen 3", SOON)?;
        for host in ["cellar", "attic", "cellar"] {
            let mut moving = pair.start_move("repl", host)?;
            while moving.goes_on()? {
                for name in ["lib.so", "data"] {
                    let new = folder.join("upgrade");
                    std::fs::write(&new, format!("not what was mapped: {name}"))?;
                    std::fs::rename(&new, folder.join(name))?;
                }
                // How often the upgrade happens; nothing is waited for.
                std::thread::sleep(Duration::from_millis(5));
            }
            moving.wait()?;
            repl.type_line(&format!(
                "print('on', '{host}', see() == before, os.path.getsize('data'))"
            ))?;
            repl.expect(&format!("\non {host} True 25"), MOVE)?;
        }
        repl.type_line("exit()")?;
        ensure!(repl.wait(SOON)? == 0, "the REPL ended badly");
        let left: Vec<String> = std::fs::read_dir(&folder)?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| !["data", "lib.so"].contains(&name.as_str()))
            .collect();
        ensure!(left.iter().all(|name| name.starts_with(".python_history")), "left: {left:?}");
        Ok(())
    })
}

//! The main job, shown: a Python REPL outgrows its limit and moves, live, to another machine; vim
//! follows by hand and saves a file it had never opened. On any two [`Node`]s that know each other.

use anyhow::{Context, ensure};

use crate::node::{MOVE, Node, SOON, wait_until};
use crate::terminal::Key;

/// Both parts. `home` is ada's; the other node is named `away`.
pub fn run(home: &impl Node, away: &str) -> anyhow::Result<()> {
    repl(home, away)?;
    editor(home, away)?;
    say("Done: both programs moved while their user kept typing, and nothing was lost.");
    Ok(())
}

/// A line that introduces what comes.
pub fn say(line: &str) {
    println!("\n{line}");
}

/// A loop that keeps one core busy until a file says that it has moved, and tells its longest pause,
/// not counting the looks for the file.
const BUSY: &str = "exec('''last = time.time(); gap = 0; look = last + 0.2\n\
while last < look or not os.path.exists('moved'):\n    \
if last >= look: last = time.time(); look = last + 0.2\n    \
now = time.time(); gap = max(gap, now - last); last = now\n\
print('gap', round(gap * 1000), 'ms')''')";

fn repl(home: &impl Node, away: &str) -> anyhow::Result<()> {
    let command =
        ["run", "--name", "repl", "--limit", "cpu=25%/2s", "--", "/usr/bin/python3", "-q"];
    let (soon, a_move) = (SOON * home.slowness(), MOVE * home.slowness());
    say("ada starts a Python REPL that may use 25% of a core over 2 s:");
    println!("  $ phantom {}", command.join(" "));
    let mut repl = home.terminal(&command)?;
    repl.expect(">>> ", soon)?;
    repl.type_line("import time, os; memory = {n: n * n for n in range(1000)}")?;
    repl.expect(">>> ", soon)?;
    repl.type_line(BUSY)?;
    say("It works hard for a while; she types the next line before it is done.");
    repl.type_line("print('typed', 'ahead', memory[31])")?;
    home.wait_for_host("repl", away)?;
    home.shell("touch moved")?;
    repl.expect("gap", a_move).context("the busy loop's result")?;
    repl.expect(" ms", soon)?;
    let gap = last_number(&repl.screen_text()).context("the REPL printed no gap")?;
    repl.expect("typed ahead 961", soon).context("the line typed while it was busy")?;
    repl.type_line("print('now', 6 * 7, len(memory))")?;
    repl.expect("now 42 1000", soon).context("its state after the move")?;
    repl.expect(">>> ", soon)?;

    say("What happened, from the daemon's log:");
    let events = home.events("repl")?;
    let start = events.first().map_or(0, |event| event.at_unix_us);
    for event in &events {
        let after_s = event.at_unix_us.saturating_sub(start) as f64 / 1e6;
        println!("  {after_s:9.3} s  {:<10} {}", event.event, event.detail);
    }
    println!("  downtime as the program itself saw it: {gap:.0} ms");
    for needed in ["crossing", "verdict", "choice", "freeze", "resume"] {
        ensure!(events.iter().any(|e| e.event == needed), "the timeline has no `{needed}`");
    }
    repl.press(Key::Ctrl('d'))?;
    let code = repl.wait(soon)?;
    ensure!(code == 0, "the REPL ended with {code}");
    Ok(())
}

fn editor(home: &impl Node, away: &str) -> anyhow::Result<()> {
    let soon = SOON * home.slowness();
    say("ada starts vim, writes, and moves it by hand:");
    home.shell("printf 'bread\\nmilk\\n' > list.txt")?;
    let command = ["run", "--name", "vim", "--", "vim", "-u", "NONE", "-N", "-n", "notes.txt"];
    let mut vim = home.terminal(&command)?;
    vim.expect_screen("~", soon)?;
    vim.type_text("iwritten at home")?;
    vim.expect_screen("written at home", soon)?;
    println!("  $ phantom migrate vim {away}");
    let moved = home.phantom(true, &["migrate", "vim", away])?;
    print!("{}", indented(&moved.stdout, home.name()));
    ensure!(moved.code == 0, "{}", moved.stderr.trim());
    vim.type_text(", finished away")?;
    vim.press(Key::Esc)?;
    vim.type_line(":w")?;
    let wanted = "written at home, finished away\n";
    wait_until("the saved file at home", soon, || {
        Ok(home.shell("cat notes.txt 2>/dev/null || :")? == wanted)
    })?;
    vim.type_line(":e list.txt")?;
    vim.expect_screen("bread", soon)?;
    vim.type_text("Gobutter")?;
    vim.press(Key::Esc)?;
    vim.type_line(":wq")?;
    ensure!(vim.wait(soon)? == 0, "vim ended badly");
    ensure!(home.shell("cat list.txt")? == "bread\nmilk\nbutter\n", "list.txt was not saved");
    let owners = home.shell("stat -c %u notes.txt list.txt; id -u")?;
    let mut owners = owners.lines();
    let own = owners.next_back().context("`id` printed nothing")?;
    ensure!(owners.all(|owner| owner == own), "the files do not belong to ada");
    println!(
        "  on {} at once: notes.txt {:?}, list.txt has butter; both belong to ada",
        home.name(),
        wanted.trim()
    );
    Ok(())
}

/// What a command printed on a node, each line with the node's name.
pub fn indented(text: &str, node: &str) -> String {
    text.lines().map(|line| format!("  {node}: {line}\n")).collect()
}

fn last_number(screen: &str) -> Option<f64> {
    let line = screen.lines().rev().find(|line| line.starts_with("gap "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

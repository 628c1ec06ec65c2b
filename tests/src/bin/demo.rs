//! The main job, shown: a Python REPL outgrows its limit and moves, live, to a machine with
//! another distribution; vim follows by hand and saves a file it had never opened.
//!
//! `cargo xtask demo` runs it; with `--interactive` the terminal is the user's.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use phantom_tests::lab::{Key, Lab, Person, wait_until};
use serde::Deserialize;

const SOON: Duration = Duration::from_secs(20);
const MOVE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Event {
    at_unix_us: u64,
    event: String,
    detail: String,
}

#[derive(Deserialize)]
struct App {
    host: String,
}

fn main() -> anyhow::Result<()> {
    let interactive = std::env::args().any(|arg| arg == "--interactive");
    let second_root = std::env::var_os("PHANTOM_SECOND_ROOT").map(PathBuf::from);
    let mut lab = Lab::open("demo")?.context("the demo needs root; use `cargo xtask demo`")?;
    say("Two machines on one: each with its own root, users, network and files.");
    let ada = lab.add("attic", Person::at_home("ada", 1000))?;
    let guest = Person { name: "bob".into(), uid: 1500, has_home: false };
    let cellar = lab.add_with_root("cellar", guest, second_root.as_deref())?;
    lab.link(ada, cellar, 1)?;
    let system = |node: usize| -> anyhow::Result<String> {
        let release = lab.node(node).enter(&["cat", "/etc/os-release"])?.stdout;
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Ok(name.unwrap_or("unknown").trim_matches('"').to_owned())
    };
    println!("  attic   {}, ada (uid 1000) at home there", system(ada)?);
    println!("  cellar  {}, bob (uid 1500), /home is empty", system(cellar)?);

    say("They get to know each other.");
    show(&lab, ada, &["up"])?;
    let token = lab.node(ada).phantom(false, &["invite", "--json"])?;
    ensure!(token.code == 0, "{}", token.stderr.trim());
    let token: serde_json::Value = serde_json::from_str(&token.stdout)?;
    let token = token["token"].as_str().context("`phantom invite` gave no token")?;
    show(&lab, cellar, &["up", "--join", token])?;
    if interactive {
        return hand_over(&lab, ada);
    }
    if let Err(error) = repl(&lab, ada).and_then(|()| editor(&lab, ada)) {
        eprintln!("{}", lab.logs());
        return Err(error);
    }
    say("Done: both programs moved while their user kept typing, and nothing was lost.");
    Ok(())
}

fn repl(lab: &Lab, ada: usize) -> anyhow::Result<()> {
    let command =
        ["run", "--name", "repl", "--limit", "cpu=25%/2s", "--", "/usr/bin/python3", "-q"];
    say("ada starts a Python REPL that may use 25% of a core over 2 s:");
    println!("  $ phantom {}", command.join(" "));
    let mut repl = lab.node(ada).terminal(&command)?;
    repl.expect(">>> ", SOON)?;
    repl.type_line("import time, os; memory = {n: n * n for n in range(1000)}")?;
    repl.expect(">>> ", SOON)?;
    repl.type_line(BUSY)?;
    say("It works hard for a while; she types the next line before it is done.");
    repl.type_line("print('typed', 'ahead', memory[31])")?;
    wait_for_host(lab, ada, "repl", "cellar")?;
    repl.expect("gap", MOVE).context("the busy loop's result")?;
    repl.expect(" ms", SOON)?;
    let gap = last_number(&repl.screen_text()).context("the REPL printed no gap")?;
    repl.expect("typed ahead 961", SOON).context("the line typed while it was busy")?;
    repl.type_line("print('now', 6 * 7, len(memory))")?;
    repl.expect("now 42 1000", SOON).context("its state after the move")?;
    repl.expect(">>> ", SOON)?;

    say("What happened, from the daemon's log:");
    let events: Vec<Event> = lab.node(ada).phantom_json(true, &["log", "repl"])?;
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
    let code = repl.wait(SOON)?;
    ensure!(code == 0, "the REPL ended with {code}");
    Ok(())
}

/// A loop that keeps one core busy until it has seen itself pause, and tells the longest pause.
const BUSY: &str = "exec('''last = time.time(); gap = 0; end = last + 12\n\
while last < end:\n    now = time.time(); gap = max(gap, now - last); last = now\n\
print('gap', round(gap * 1000), 'ms')''')";

fn editor(lab: &Lab, ada: usize) -> anyhow::Result<()> {
    say("ada starts vim, writes, and moves it by hand:");
    std::fs::write(lab.node(ada).home_dir().join("list.txt"), "bread\nmilk\n")?;
    chown(lab, ada, "list.txt")?;
    let mut vim = lab.node(ada).terminal(&[
        "run",
        "--name",
        "vim",
        "--",
        "vim",
        "-u",
        "NONE",
        "-N",
        "-n",
        "notes.txt",
    ])?;
    vim.expect_screen("~", SOON)?;
    vim.type_text("iwritten at home")?;
    vim.expect_screen("written at home", SOON)?;
    println!("  $ phantom migrate vim cellar");
    show_as_user(lab, ada, &["migrate", "vim", "cellar"])?;
    vim.type_text(", finished away")?;
    vim.press(Key::Esc)?;
    vim.type_line(":w")?;
    let notes = lab.node(ada).home_dir().join("notes.txt");
    let wanted = "written at home, finished away\n";
    wait_until("the saved file at home", SOON, || {
        Ok(std::fs::read_to_string(&notes).is_ok_and(|text| text == wanted))
    })?;
    vim.type_line(":e list.txt")?;
    vim.expect_screen("bread", SOON)?;
    vim.type_text("Gobutter")?;
    vim.press(Key::Esc)?;
    vim.type_line(":wq")?;
    ensure!(vim.wait(SOON)? == 0, "vim ended badly");
    let list = lab.node(ada).home_dir().join("list.txt");
    ensure!(std::fs::read_to_string(&list)? == "bread\nmilk\nbutter\n", "list.txt was not saved");
    use std::os::unix::fs::MetadataExt;
    ensure!(std::fs::metadata(&notes)?.uid() == 1000, "notes.txt does not belong to ada");
    println!(
        "  on attic at once: notes.txt {:?}, list.txt has butter; both belong to ada",
        wanted.trim()
    );
    Ok(())
}

fn chown(lab: &Lab, node: usize, file: &str) -> anyhow::Result<()> {
    let uid = lab.node(node).person().uid;
    let path = lab.node(node).home_dir().join(file);
    nix::unistd::chown(&path, Some(uid.into()), Some(uid.into()))?;
    Ok(())
}

fn wait_for_host(lab: &Lab, node: usize, app: &str, host: &str) -> anyhow::Result<()> {
    wait_until(&format!("the move of {app} to {host}"), MOVE, || {
        let app: Vec<serde_json::Value> = lab.node(node).phantom_json(true, &["ps"])?;
        let rows: Vec<App> =
            app.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect();
        Ok(rows.iter().any(|row| row.host == host))
    })
}

fn last_number(screen: &str) -> Option<f64> {
    let line = screen.lines().rev().find(|line| line.starts_with("gap "))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

fn show(lab: &Lab, node: usize, args: &[&str]) -> anyhow::Result<()> {
    print_run(lab, node, false, args)
}

fn show_as_user(lab: &Lab, node: usize, args: &[&str]) -> anyhow::Result<()> {
    print_run(lab, node, true, args)
}

fn print_run(lab: &Lab, node: usize, as_user: bool, args: &[&str]) -> anyhow::Result<()> {
    let output = lab.node(node).phantom(as_user, args)?;
    for line in output.stdout.lines() {
        println!("  {}: {line}", lab.node(node).name());
    }
    if output.code != 0 {
        bail!("on {}: {}", lab.node(node).name(), output.stderr.trim());
    }
    Ok(())
}

fn say(line: &str) {
    println!("\n{line}");
}

/// Gives the user a shell on the first machine.
fn hand_over(lab: &Lab, node: usize) -> anyhow::Result<()> {
    say("You are ada on attic. Try:");
    println!("  phantom run --limit cpu=80%/2s -- python3 -q      (then keep it busy)");
    println!("  phantom ps; phantom nodes; phantom explain APP; phantom migrate APP cellar");
    println!("`exit` ends the demo and everything in it.\n");
    let phantom = std::env::var("PHANTOM_BIN").unwrap_or_default();
    let folder = std::path::Path::new(&phantom).parent().map(|dir| dir.display().to_string());
    let path = format!("PATH={}:/usr/local/bin:/usr/bin:/bin", folder.unwrap_or_default());
    let mut shell = lab.node(node).command(true, &["env", &path, "bash", "--norc", "-i"]);
    shell.stdin(std::process::Stdio::inherit());
    shell.status().context("cannot start a shell")?;
    Ok(())
}

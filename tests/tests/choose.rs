//! Where an app goes when it exceeds its limit, and why.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use phantom_tests::lab::{Event, Lab, LabNode, Node, Pair, Person, SOON, Terminal, wait_until};

/// A loop that keeps one core busy until a file ends it, for which it looks now and then.
const BUSY: &str = "exec('''look = time.time() + 0.2\nwhile time.time() < look or not \
    os.path.exists('done'):\n    if time.time() >= look: look = time.time() + 0.2''')";

/// Limits the rate of a node's way, which is the only one of its links.
fn slow_down(node: &LabNode, device: &str, rate: &str) -> anyhow::Result<()> {
    let args =
        ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "16kb"];
    node.enter(&[&args[..], &["latency", "300ms"]].concat()).map(drop)
}

/// Starts a REPL that will exceed its limit.
fn busy(node: &LabNode) -> anyhow::Result<Terminal> {
    let command = ["run", "--name", "repl", "--limit", "cpu=25%/2s", "--", "python3", "-q"];
    let mut repl = node.terminal(&command)?;
    repl.expect(">>> ", SOON)?;
    repl.type_line("import os, time")?;
    repl.expect(">>> ", SOON)?;
    repl.type_line(BUSY)?;
    Ok(repl)
}

/// Waits until the app runs on `host`; what happened to it comes with a failure.
fn wait_for_host(node: &LabNode, host: &str) -> anyhow::Result<()> {
    node.wait_for_host("repl", host).inspect_err(|_| show_life(node))
}

fn show_life(node: &LabNode) {
    for event in node.events("repl").unwrap_or_default() {
        eprintln!("{:<10} {}", event.event, event.detail);
    }
}

fn count(events: &[Event], name: &str) -> usize {
    events.iter().filter(|event| event.event == name).count()
}

#[test]
fn of_two_nodes_the_one_behind_a_slow_way_is_not_chosen() -> anyhow::Result<()> {
    let test = "of_two_nodes_the_one_behind_a_slow_way_is_not_chosen";
    let Some(mut lab) = Lab::open(test)? else { return Ok(()) };
    let home = lab.add("attic", Person::at_home("ada", 1000))?;
    let bob = || Person { name: "bob".into(), uid: 1500, has_home: false };
    // By their names alone the far one would come first.
    let far = lab.add("afar", bob())?;
    let near = lab.add("near", bob())?;
    lab.link(home, far, 1)?;
    lab.link(home, near, 2)?;
    let [home, far, near] = [home, far, near].map(|node| lab.node(node));
    slow_down(far, "ph1b", "600kbit")?;
    slow_down(home, "ph1a", "600kbit")?;
    home.found()?;
    home.let_in(far)?;
    near.phantom(false, &["up", "--no-wait"])?;
    let code: serde_json::Value = near.phantom_json(false, &["up", "--no-wait"])?;
    let code = code["asked"]["code"].as_str().context("no code")?;
    ensure!(home.phantom(false, &["accept", code])?.code == 0, "accepted");
    home.wait_for_nodes(3)?;

    let repl = busy(home)?;
    wait_for_host(home, "near")?;
    let events = home.events("repl")?;
    let choice = events.iter().find(|event| event.event == "choice").context("no choice")?;
    ensure!(
        choice.detail.starts_with("near: rank ") && choice.detail.contains("best of 2"),
        "{}",
        choice.detail
    );
    let explained = home.phantom(true, &["explain", "repl"])?;
    let far_line = explained.stdout.lines().find(|line| line.trim().starts_with("afar: rank"));
    ensure!(far_line.is_some_and(|line| line.contains("KiB/s")), "{}", explained.stdout);
    home.shell("touch done")?;
    drop(repl);
    Ok(())
}

#[test]
fn a_member_that_claims_to_be_fast_is_measured() -> anyhow::Result<()> {
    let Some(pair) = Pair::open("a_member_that_claims_to_be_fast_is_measured")? else {
        return Ok(());
    };
    let (home, liar) = (pair.home(), pair.away());
    liar.configure("claim_mflops", Some("2000000"))?;
    liar.restart_daemon()?;
    pair.wait_connected()?;
    let listed = || Ok(home.phantom(true, &["nodes"])?.stdout.contains("2000000 Mflop/s"));
    wait_until("the claim to be heard", SOON, listed)?;
    let repl = busy(home)?;
    wait_for_host(home, "cellar")?;
    let events = home.events("repl")?;
    let choice = events.iter().find(|event| event.event == "choice").context("no choice")?;
    let words = choice.detail.split_once(": ").and_then(|(_, words)| words.split_once(": "));
    let figure = words.and_then(|(_, words)| words.split(' ').next()).context("no figure")?;
    // A piece of work tells what is true: no machine has a core of 200 Gflop/s for a loop.
    ensure!(figure.parse::<u32>()? < 200_000, "{}", choice.detail);
    home.shell("touch done")?;
    drop(repl);
    Ok(())
}

#[test]
fn an_app_over_its_limit_everywhere_does_not_bounce_and_its_user_is_told_once() -> anyhow::Result<()>
{
    let test = "an_app_over_its_limit_everywhere_does_not_bounce_and_its_user_is_told_once";
    let Some(pair) = Pair::open(test)? else { return Ok(()) };
    let home = pair.home();
    let mut repl = busy(home)?;
    wait_for_host(home, "cellar")?;
    wait_until("it is over its limit there, too", SOON, || {
        Ok(count(&home.events("repl")?, "stays") == 1)
    })
    .inspect_err(|_| show_life(home))?;
    repl.expect("exceeded its limits", SOON)?;
    let quiet = Instant::now() + Duration::from_secs(12);
    wait_until("twelve quiet seconds", Duration::from_secs(20), || {
        let events = home.events("repl")?;
        ensure!(count(&events, "stays") == 1 && count(&events, "choice") == 1, "{events:?}");
        Ok(Instant::now() > quiet)
    })?;
    wait_for_host(home, "cellar")?;
    home.shell("touch done")?;
    repl.type_line("print(6 * 7)")?;
    repl.expect("42", SOON)
}

#[test]
fn a_move_whose_way_collapses_is_given_up_with_the_reason() -> anyhow::Result<()> {
    let test = "a_move_whose_way_collapses_is_given_up_with_the_reason";
    let Some(pair) = Pair::open(test)? else { return Ok(()) };
    let home = pair.home();
    slow_down(home, "ph1a", "60mbit")?;
    let mut repl = home.terminal(&["run", "--name", "repl", "--", "python3", "-q"])?;
    repl.expect(">>> ", SOON)?;
    // 64 MiB that cannot be sent in less than nine seconds.
    repl.type_line("import os; memory = os.urandom(64 << 20); print('full', len(memory))")?;
    repl.expect("full 67108864", SOON)?;
    let mut moving = home.phantom_command(true, &["migrate", "repl", "cellar"]);
    let moving =
        moving.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()?;
    let bytes = || -> anyhow::Result<u64> {
        let text = home.enter(&["cat", "/proc/net/dev"])?.stdout;
        let line = text.lines().find_map(|line| line.trim().strip_prefix("ph1a:"));
        let sent = line.and_then(|line| line.split_whitespace().nth(8)).context("no ph1a")?;
        Ok(sent.parse()?)
    };
    let before = bytes()?;
    wait_until("a third of the image is sent", SOON, || Ok(bytes()? > before + (20 << 20)))?;
    slow_down(home, "ph1a", "64kbit")?;
    let output = moving.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("has collapsed"), "{said}");
    ensure!(said.contains("cellar") && said.contains("the move was given up"), "{said}");
    // It goes on where it was.
    slow_down(home, "ph1a", "60mbit")?;
    repl.type_line("print('still', len(memory))")?;
    repl.expect("still 67108864", SOON)?;
    wait_for_host(home, "attic")?;
    pair.wait_connected()?;
    Ok(())
}

#[test]
fn ps_tells_what_cannot_move_and_why() -> anyhow::Result<()> {
    let Some(pair) = Pair::open("ps_tells_what_cannot_move_and_why")? else { return Ok(()) };
    let home = pair.home();
    let mut repl = home.terminal(&["run", "--name", "repl", "--", "python3", "-q"])?;
    repl.expect(">>> ", SOON)?;
    let row = || -> anyhow::Result<serde_json::Value> {
        let rows: Vec<serde_json::Value> = home.phantom_json(true, &["ps"])?;
        rows.into_iter().next().context("no app")
    };
    wait_until("it is known to be movable", SOON, || Ok(row()?["movable"] == true))?;
    repl.type_line("import socket; s = socket.create_connection(('10.77.1.2', 41610))")?;
    wait_until("it is known not to be movable", SOON, || Ok(row()?["movable"] == false))?;
    let obstacle = row()?["obstacle"].as_str().unwrap_or_default().to_owned();
    ensure!(obstacle.contains("10.77.1.2"), "{obstacle}");
    let shown = home.phantom(true, &["ps"])?.stdout;
    ensure!(shown.contains("MOVABLE") && shown.contains("no: "), "{shown}");
    Ok(())
}

#[test]
fn a_criu_that_is_replaced_is_tried_again_and_others_know_the_result() -> anyhow::Result<()> {
    let test = "a_criu_that_is_replaced_is_tried_again_and_others_know_the_result";
    let Some(pair) = Pair::open(test)? else { return Ok(()) };
    let (home, away) = (pair.home(), pair.away());
    let criu =
        away.enter(&["sh", "-c", "ls /usr/local/lib/phantom/criu/criu $PHANTOM_CRIU | tail -1"])?;
    away.enter(&["cp", criu.stdout.trim(), "/run/criu"])?;
    away.kill_daemon()?;
    let mut up = away.phantom_command(false, &["up"]);
    ensure!(up.env("PHANTOM_CRIU", "/run/criu").output()?.status.success(), "it starts");
    pair.wait_connected()?;
    let mut repl = home.terminal(&["run", "--name", "repl", "--", "python3", "-q"])?;
    repl.expect(">>> ", SOON)?;
    let explained = || anyhow::Ok(home.phantom(true, &["explain", "repl"])?.stdout);
    wait_until("cellar can take it", SOON, || Ok(explained()?.contains("cellar: rank")))?;
    // An upgrade that went wrong.
    away.enter(&[
        "sh",
        "-c",
        "rm /run/criu; printf '#!/bin/sh\\nexit 1\\n' > /run/criu; chmod +x /run/criu",
    ])?;
    wait_until("the others know", Duration::from_secs(60), || {
        Ok(explained()?.contains("cellar: cannot restore apps"))
    })?;
    let line = explained()?;
    let line = line.lines().find(|line| line.contains("cannot restore")).unwrap_or_default();
    ensure!(line.contains("cannot restore apps: "), "it says why: {line}");
    let why = home.phantom(true, &["why", "repl"])?.stdout;
    let begins = ["repl runs on attic and stays there: ", "The other node is no better for it."];
    ensure!(begins.iter().zip(why.lines()).all(|(begin, line)| line.starts_with(begin)), "{why}");
    ensure!(
        why.contains("\n  it can restore apps on 0 of 1:\n    not cellar cannot restore"),
        "{why}"
    );
    let both = "\n  without `it can restore apps` and `it can show home's files`: 1 would match\n";
    ensure!(why.contains(both), "{why}");
    away.enter(&["sh", "-c", &format!("rm /run/criu; cp {} /run/criu", criu.stdout.trim())])?;
    wait_until("cellar can take it again", Duration::from_secs(60), || {
        Ok(explained()?.contains("cellar: rank"))
    })
}

#[test]
fn an_expression_is_taken_apart_by_who_answers_for_the_sub_grid() -> anyhow::Result<()> {
    let test = "an_expression_is_taken_apart_by_who_answers_for_the_sub_grid";
    let Some(pair) = Pair::open(test)? else { return Ok(()) };
    for node in [pair.home(), pair.away()] {
        let why = |text: &str| node.phantom(true, &["why", text]);
        wait_until("both nodes to be known", SOON, || {
            let told = why("Cpus >= 1")?.stdout;
            Ok(told.contains("2 of 2 nodes match: ") && told.contains(", the super-peer, knows"))
        })?;
        let told = why("Cpus >= 1000000 && Memroy > 1 && State == \"up\"")?.stdout;
        ensure!(told.starts_with("None of 2 nodes matches.\n"), "{told}");
        let row = |text: &str, counts: [&str; 4]| {
            let row = told.lines().find(|line| line.ends_with(text)).unwrap_or_default();
            row.split_whitespace().take(4).eq(counts)
        };
        ensure!(row("Cpus >= 1000000", ["0", "2", "0", "0"]), "{told}");
        ensure!(row("Memroy > 1", ["0", "0", "2", "0"]), "{told}");
        ensure!(row("State == \"up\"", ["2", "0", "0", "0"]), "{told}");
        ensure!(told.contains("No node says `Memroy`; `Memory` is alike."), "{told}");
        ensure!(
            told.contains("without `Cpus >= 1000000` and `Memroy > 1`: 2 would match"),
            "{told}"
        );
        ensure!(told.contains(", the super-peer, knows the nodes of the sub-grid."), "{told}");
        println!("{told}");
        let bad = why("Cpus >")?;
        ensure!(bad.code == 2 && bad.stderr.contains("`Cpus >` is no expression"), "{bad:?}");
        let nobody = why("nothing-of-this-name")?;
        ensure!(nobody.code == 2 && nobody.stderr.contains("no app"), "{nobody:?}");
        let json: serde_json::Value = node.phantom_json(true, &["why", "Cpus >= 1"])?;
        ensure!(json["matching"] == 2 && json["parts"][0]["holds"] == 2, "{json:#}");
    }
    Ok(())
}

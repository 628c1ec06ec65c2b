//! Who is let in, who is not and with which words; nodes that lack something; the monitor's switch.

mod certificates;
mod near;
mod papers;
mod policy;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use phantom_tests::lab::{Lab, LabNode, Node, Output, Pair, Person, SOON, wait_until};
use serde_json::Value;

/// A laboratory of three nodes; the first has founded a sub-grid.
fn three(test: &str) -> anyhow::Result<Option<(Lab, [usize; 3])>> {
    let Some(mut lab) = Lab::open(test)? else { return Ok(None) };
    let founder = lab.add("attic", Person::at_home("ada", 1000))?;
    let mut add = |name: &str, net| -> anyhow::Result<usize> {
        let node = lab.add(name, Person { name: "bob".into(), uid: 1500, has_home: false })?;
        lab.link(founder, node, net)?;
        Ok(node)
    };
    let nodes = [founder, add("cellar", 1)?, add("shed", 2)?];
    lab.node(founder).found()?;
    Ok(Some((lab, nodes)))
}

fn invite(node: &LabNode, ttl: &str) -> anyhow::Result<String> {
    let invited: Value = node.phantom_json(false, &["invite", "--ttl", ttl])?;
    Ok(invited["token"].as_str().context("no token")?.to_owned())
}

fn join(node: &LabNode, token: &str) -> anyhow::Result<Output> {
    node.phantom(false, &["up", "--join", token])
}

/// The line a refused command printed.
fn refused(output: &Output, code: i32, words: &str) -> anyhow::Result<()> {
    let line = output.stderr.trim();
    ensure!(output.code == code, "exit code {}: {line}", output.code);
    ensure!(line.lines().count() == 1 && line.contains(words), "not `{words}` but `{line}`");
    Ok(())
}

fn members(node: &LabNode) -> anyhow::Result<usize> {
    Ok(node.phantom_json::<Vec<Value>>(false, &["nodes"])?.len())
}

#[test]
fn a_token_lets_one_node_in_and_no_other() -> anyhow::Result<()> {
    let Some((lab, [founder, cellar, shed])) = three("a_token_lets_one_node_in_and_no_other")?
    else {
        return Ok(());
    };
    let founder = lab.node(founder);
    let token = invite(founder, "1h")?;
    let mut garbled = token.clone();
    garbled.truncate(token.len() / 2);
    refused(&join(lab.node(shed), &garbled)?, 2, "the invitation is damaged")?;
    refused(&join(lab.node(shed), "hello")?, 2, "invitation")?;
    let joined = join(lab.node(cellar), &token)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    refused(&join(lab.node(shed), &token)?, 1, "has been used by another node")?;
    // The last character changed: well-formed at best, and no such invitation.
    let last = if token.ends_with('a') { "b" } else { "a" };
    let forged = format!("{}{last}", &token[..token.len() - 1]);
    let forged = join(lab.node(shed), &forged)?;
    ensure!(forged.code != 0 && forged.stderr.trim().lines().count() == 1, "{forged:?}");
    ensure!(members(founder)? == 2, "nobody else has come in");
    Ok(())
}

#[test]
fn an_expired_token_is_refused() -> anyhow::Result<()> {
    let Some((lab, [founder, cellar, _])) = three("an_expired_token_is_refused")? else {
        return Ok(());
    };
    let token = invite(lab.node(founder), "1s")?;
    let over = Instant::now() + Duration::from_millis(2100);
    wait_until("the token's end", SOON, || Ok(Instant::now() > over))?;
    refused(&join(lab.node(cellar), &token)?, 1, "expired")?;
    ensure!(members(lab.node(founder))? == 1, "nobody has come in");
    Ok(())
}

#[test]
fn a_member_of_another_sub_grid_stays_outside() -> anyhow::Result<()> {
    let test = "a_member_of_another_sub_grid_stays_outside";
    let Some((lab, [founder, cellar, shed])) = three(test)? else { return Ok(()) };
    let joined = join(lab.node(cellar), &invite(lab.node(founder), "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    lab.node(shed).found()?;
    let output = join(lab.node(shed), &invite(lab.node(founder), "1h")?)?;
    refused(&output, 1, "`phantom leave` ends that")?;
    ensure!(members(lab.node(founder))? == 2 && members(lab.node(shed))? == 1, "two sub-grids");
    Ok(())
}

#[test]
fn a_node_without_criu_or_fuse_joins_and_is_no_target() -> anyhow::Result<()> {
    let test = "a_node_without_criu_or_fuse_joins_and_is_no_target";
    let Some((lab, [founder, cellar, shed])) = three(test)? else { return Ok(()) };
    let (founder, cellar, shed) = (lab.node(founder), lab.node(cellar), lab.node(shed));
    let token = invite(founder, "1h")?;
    let mut up = cellar.phantom_command(false, &["up", "--join", &token]);
    ensure!(up.env("PHANTOM_CRIU", "/nowhere/criu").output()?.status.success(), "it joins");
    shed.enter(&["mount", "--bind", "/dev/null", "/dev/fuse"])?;
    let joined = join(shed, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    let mut repl = founder.terminal(&["run", "--name", "repl", "--", "/usr/bin/python3", "-q"])?;
    repl.expect(">>> ", SOON)?;
    for (name, lacks, reason) in
        [("cellar", "move apps", "cannot restore apps"), ("shed", "host foreign apps", "FUSE")]
    {
        wait_until(&format!("{name} among the nodes"), SOON, || {
            let nodes: Vec<Value> = founder.phantom_json(true, &["nodes"])?;
            let row = nodes.iter().find(|row| row["name"] == name);
            let lack = |row: &Value| row["lacks"].as_array()?.iter().find(|l| *l == lacks).cloned();
            Ok(row.and_then(lack).is_some())
        })?;
        refused(&founder.phantom(true, &["migrate", "repl", name])?, 1, reason)?;
    }
    refused(&founder.phantom(true, &["migrate", "repl"])?, 1, "no other node can take it")?;
    let explained = founder.phantom(true, &["explain", "repl"])?;
    ensure!(explained.stdout.contains("cannot restore apps"), "{}", explained.stdout);
    repl.type_line("print(6 * 7)")?;
    repl.expect("42", SOON)
}

/// How many programs the node's daemon holds in the kernel, by the kernel's own account.
fn programs(node: &LabNode) -> anyhow::Result<usize> {
    let mut count = 0;
    for entry in std::fs::read_dir(format!("/proc/{}/fdinfo", node.daemon_pid()?))? {
        let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
        count += usize::from(text.contains("prog_id:"));
    }
    Ok(count)
}

#[test]
fn the_monitor_goes_and_comes_while_apps_run_and_move() -> anyhow::Result<()> {
    Pair::scenario("the_monitor_goes_and_comes_while_apps_run_and_move", |pair| {
        let state: Value = pair.home().phantom_json(true, &["qos"])?;
        if state["on"] != true {
            println!("SKIP the_monitor_goes_and_comes_while_apps_run_and_move: no monitor here");
            return Ok(());
        }
        ensure!(programs(pair.home())? > 0, "it is on");
        let args =
            ["run", "--name", "busy", "--limit", "cpu=20%/1s", "--", "/usr/bin/python3", "-q"];
        let mut repl = pair.home().terminal(&args)?;
        repl.expect(">>> ", SOON)?;
        let state: Value = pair.home().phantom_json(false, &["qos", "off"])?;
        ensure!(state["on"] == false && state["programs"] == 0, "{state}");
        ensure!(programs(pair.home())? == 0, "nothing of it is left in the kernel");
        pair.migrate("busy", "cellar")?;
        pair.migrate("busy", "attic")?;
        let events = pair.events("busy")?;
        ensure!(!events.iter().any(|row| row.event == "crossing"), "{events:?}");
        let state: Value = pair.home().phantom_json(false, &["qos", "on"])?;
        ensure!(state["on"] == true, "{state}");
        ensure!(programs(pair.home())? > 0, "it is on again");
        repl.type_line("import time; end = time.time() + 20")?;
        repl.type_line("exec('while time.time() < end: pass')")?;
        pair.wait_for_host("busy", "cellar")?;
        repl.type_line("print('still', 6 * 7)")?;
        repl.expect("still 42", SOON * 2)
    })
}

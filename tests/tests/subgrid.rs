//! Who answers for a sub-grid, and that nothing is lost when that changes.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use phantom_tests::lab::{Household, Node, SOON, wait_until};
use serde_json::Value;

#[test]
fn three_machines_elect_one_and_another_follows_when_it_is_killed() -> anyhow::Result<()> {
    let test = "three_machines_elect_one_and_another_follows_when_it_is_killed";
    Household::scenario(test, 3, |household| {
        let all = [0, 1, 2];
        let first = household.wait_agreed(&all, 3)?;
        household.wait_archived(first)?;
        ensure!(household.state(first)?.voters.len() == 3, "{:?}", household.state(first)?);
        for number in all {
            let found = household.found(number, "Cpus >= 1 && OpSys == \"linux\"")?;
            ensure!(found == ["n0", "n1", "n2"], "from n{number}: {found:?}");
        }
        household.node(first).kill_daemon()?;
        let left: Vec<usize> = all.into_iter().filter(|number| *number != first).collect();
        let second = household.wait_agreed(&left, 3)?;
        ensure!(second != first);
        // The one that is gone is still known, with what it was.
        let away = household.node(first).name().to_owned();
        wait_until("the lost one's registration", SOON, || {
            Ok(household.found(left[0], "State == \"away\" && Cpus >= 1")? == [away.clone()])
        })?;
        household.node(first).restart_daemon()?;
        household.wait_agreed(&all, 3)?;
        let found = household.found(first, "State == \"up\"")?;
        ensure!(found == ["n0", "n1", "n2"], "{found:?}");
        Ok(())
    })
}

#[test]
fn of_two_machines_the_one_that_answers_goes_on_alone() -> anyhow::Result<()> {
    let test = "of_two_machines_the_one_that_answers_goes_on_alone";
    Household::scenario(test, 2, |household| {
        let leads = household.wait_agreed(&[0, 1], 2)?;
        let other = 1 - leads;
        household.node(other).kill_daemon()?;
        // Longer than a lease: it needs nobody else.
        let lease = Duration::from_secs(12);
        let begin = std::time::Instant::now();
        wait_until("a lease to be over", 2 * lease, || {
            ensure!(household.state(leads)?.decides, "alone it may not decide");
            Ok(begin.elapsed() > lease)
        })?;
        household.node(other).restart_daemon()?;
        household.wait_agreed(&[0, 1], 2)?;
        household.node(leads).kill_daemon()?;
        wait_until("nobody answers", SOON, || Ok(household.state(other)?.super_peer.is_none()))?;
        let asked = household.node(other).phantom(true, &["nodes", "--scope", "subgrid"])?;
        ensure!(asked.code == 1 && asked.stderr.contains("no super-peer"), "{asked:?}");
        // Who is there can still be asked.
        household.node(other).wait_for_nodes(1)?;
        household.node(leads).restart_daemon()?;
        ensure!(household.wait_agreed(&[0, 1], 2)? == leads);
        Ok(())
    })
}

#[test]
fn a_super_peer_is_killed_while_a_program_moves_to_it() -> anyhow::Result<()> {
    let test = "a_super_peer_is_killed_while_a_program_moves_to_it";
    Household::scenario(test, 3, |household| {
        let target = household.wait_agreed(&[0, 1, 2], 3)?;
        let home = household.node((target + 1) % 3);
        let mut repl = home.terminal(&["run", "--name", "repl", "--", "python3", "-q"])?;
        repl.expect(">>> ", SOON)?;
        repl.type_line("x = 41")?;
        repl.expect(">>> ", SOON)?;
        home.hold_at(Some("source:transfer"))?;
        household.wait_agreed(&[0, 1, 2], 3)?;
        let name = household.node(target).name();
        let mut command = home.phantom_command(true, &["migrate", "repl", name, "--json"]);
        let mut moving = command.spawn()?;
        home.wait_held()?;
        household.node(target).kill_daemon()?;
        home.let_go()?;
        moving.wait()?;
        let left: Vec<usize> = (0..3).filter(|number| *number != target).collect();
        household.wait_agreed(&left, 3)?;
        repl.type_line("print(x + 1)")?;
        repl.expect("42", SOON)?;
        let row = home.row("repl")?;
        ensure!(row.as_ref().is_some_and(|row| row.host == home.name()), "{row:?}");
        household.node(target).restart_daemon()?;
        household.wait_agreed(&[0, 1, 2], 3)?;
        wait_until("one copy", SOON, || {
            Ok(household.node(target).processes_with("python3 -q").is_empty())
        })?;
        ensure!(home.processes_with("python3 -q").len() >= 1);
        repl.type_line("exit()")?;
        ensure!(repl.wait(SOON)? == 0);
        Ok(())
    })
}

#[test]
fn what_runs_on_one_machine_parts_no_others() -> anyhow::Result<()> {
    let test = "what_runs_on_one_machine_parts_no_others";
    Household::scenario(test, 3, |household| {
        household.wait_agreed(&[0, 1, 2], 3)?;
        // The way between the two others leads through the first one's namespace.
        let mut repl =
            household.node(0).terminal(&["run", "--name", "repl", "--", "python3", "-q"])?;
        repl.expect(">>> ", SOON)?;
        household.node(0).kill_daemon()?;
        household.wait_agreed(&[1, 2], 3)?;
        household.node(0).restart_daemon()?;
        household.wait_agreed(&[0, 1, 2], 3)?;
        repl.type_line("exit()")?;
        ensure!(repl.wait(SOON)? == 0);
        Ok(())
    })
}

#[test]
fn who_leaves_takes_nothing_along_and_comes_back_as_somebody_new() -> anyhow::Result<()> {
    let test = "who_leaves_takes_nothing_along_and_comes_back_as_somebody_new";
    Household::scenario(test, 2, |household| {
        let left = household.node(1).phantom(false, &["leave"])?;
        ensure!(left.code == 0, "{left:?}");
        let state = household.node(1).phantom(true, &["subgrid"])?;
        ensure!(state.code == 1 && state.stderr.lines().count() == 1, "{state:?}");
        household.node(0).let_in(household.node(1))?;
        household.wait_agreed(&[0, 1], 2)?;
        Ok(())
    })
}

#[test]
fn who_puts_out_the_machines_that_are_gone_goes_on_without_them() -> anyhow::Result<()> {
    let test = "who_puts_out_the_machines_that_are_gone_goes_on_without_them";
    Household::scenario(test, 3, |household| {
        for gone in [1, 2] {
            household.node(gone).kill_daemon()?;
        }
        wait_until("nobody decides", SOON, || Ok(!household.state(0)?.decides))?;
        for gone in ["n1", "n2"] {
            let put_out = household.node(0).phantom(false, &["remove", gone])?;
            ensure!(put_out.code == 0, "{put_out:?}");
        }
        ensure!(household.wait_agreed(&[0], 1)? == 0);
        Ok(())
    })
}

#[test]
fn of_seven_machines_none_is_forgotten_when_the_super_peer_is_killed() -> anyhow::Result<()> {
    let test = "of_seven_machines_none_is_forgotten_when_the_super_peer_is_killed";
    Household::scenario(test, 7, |household| {
        let all: Vec<usize> = (0..7).collect();
        let every: Vec<String> = (0..7).map(|number| format!("n{number}")).collect();
        let first = household.wait_agreed(&all, 7)?;
        let asker = (first + 3) % 7;
        wait_until("the whole registry", SOON, || Ok(household.found(asker, "true")? == every))?;
        household.wait_archived(first)?;
        household.node(first).kill_daemon()?;
        let mut last = None;
        wait_until("the whole registry again", SOON, || {
            let found = household.found(asker, "true");
            let whole = found.as_ref().is_ok_and(|found| *found == every);
            last = Some(found);
            Ok(whole
                && household.state(asker)?.super_peer.as_deref()
                    != Some(household.node(first).name()))
        })
        .with_context(|| format!("it gives {last:?}, and {:?}", household.state(asker)))
    })
}

#[test]
fn the_best_nodes_are_found_and_how_is_told() -> anyhow::Result<()> {
    let test = "the_best_nodes_are_found_and_how_is_told";
    Household::scenario(test, 3, |household| {
        let leads = household.wait_agreed(&[0, 1, 2], 3)?;
        let asks = household.node((leads + 1) % 3);
        let name = household.node(leads).name();
        let best = ["nodes", "--scope", "subgrid", "--where", "Cpus >= 1", "--rank", "FreeMemory"];
        let of_two = [&best[..], &["--count", "2"]].concat();
        let mut reply = Value::Null;
        wait_until("two of the members", SOON, || {
            reply = asks.phantom_json(true, &of_two)?;
            Ok(reply["outcome"] == "met")
        })
        .with_context(|| format!("it is {reply:#}"))?;
        ensure!(reply["messages"] == 2 && reply["steps"] == 2, "{reply:#}");
        ensure!(way(&reply) == [(asks.name(), "asker"), (name, "super-peer")], "{reply:#}");
        let ranks: Vec<f64> = rows(&reply).filter_map(|row| row["rank"].as_f64()).collect();
        ensure!(ranks.len() == 2 && ranks[0] >= ranks[1] && ranks[1] > 0.0, "{reply:#}");
        ensure!(rows(&reply).all(|row| row["attributes"]["Cpus"].is_string()), "{reply:#}");
        let own: Value = household.node(leads).phantom_json(true, &of_two)?;
        ensure!(own["messages"] == 0 && own["outcome"] == "met", "{own:#}");
        let alone: Value = asks.phantom_json(true, &["nodes", "--scope", "grid"])?;
        ensure!(rows(&alone).count() == 3 && alone["outcome"] == "alone", "{alone:#}");
        let told = asks.phantom(true, &["nodes", "--scope", "region"])?;
        ensure!(told.code == 0 && told.stdout.contains("belongs to no region"), "{told:?}");
        let none = [&best[..4], &["State == \"away\"", "--count", "1"]].concat();
        let none = asks.phantom(true, &none)?;
        ensure!(none.code == 1 && none.stdout.contains("0 nodes match"), "{none:?}");
        for (wrong, why) in [
            (&["--scope", "grid", "--where", "Idle >"][..], "`Idle >` is no expression"),
            (&["--scope", "grid", "--rank", "Idle *"], "`Idle *` is no expression"),
            (&["--scope", "grid", "--where", &"1 || ".repeat(200)], "more than 512"),
            (&["--scope", "grid", "--within", "61s"], "60 s"),
            (&["--scope", "grid", "--count", "13"], "13"),
            (&["--count", "2"], "--scope"),
        ] {
            let refused = asks.phantom(true, &[&["nodes"], wrong].concat())?;
            let line = refused.stderr.lines().count() == 1 && refused.stderr.contains(why);
            ensure!(refused.code == 2 && line, "{wrong:?}: {refused:?}");
        }
        Ok(())
    })
}

#[test]
fn a_query_that_waits_when_the_super_peer_is_killed_is_answered_by_the_next() -> anyhow::Result<()>
{
    let test = "a_query_that_waits_when_the_super_peer_is_killed_is_answered_by_the_next";
    Household::scenario(test, 3, |household| {
        let first = household.wait_agreed(&[0, 1, 2], 3)?;
        household.wait_archived(first)?;
        let left: Vec<usize> = (0..3).filter(|number| *number != first).collect();
        let asks = household.node(left[0]);
        // It takes the question and never answers.
        kill(Pid::from_raw(household.node(first).daemon_pid()?), Signal::SIGSTOP)?;
        let args = ["nodes", "--scope", "subgrid", "--count", "2", "--within", "50s", "--json"];
        let mut command = asks.phantom_command(true, &args);
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let pid = child.id();
        wait_until("the query to wait", SOON, || Ok(waits_for_an_answer(pid)))?;
        household.node(first).kill_daemon()?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "{output:?}");
        let reply: Value = serde_json::from_slice(&output.stdout)?;
        let second = household.node(household.wait_agreed(&left, 3)?).name();
        ensure!(reply["outcome"] == "met", "{reply:#}");
        ensure!(way(&reply) == [(asks.name(), "asker"), (second, "super-peer")], "{reply:#}");
        Ok(())
    })
}

/// Whether a `phantom` has put its question to the daemon and sleeps.
fn waits_for_an_answer(pid: u32) -> bool {
    let of =
        |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let sleeps = of("stat").rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('S'));
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut targets = files.filter_map(|file| std::fs::read_link(file.path()).ok());
    of("comm").trim() == "phantom"
        && sleeps
        && targets.any(|target| target.to_string_lossy().starts_with("socket:"))
}

/// Asks as often as it can until its input ends; prints how many queries were met, and how many not.
const FLOOD: &str = r#"
import http.client, json, socket, sys, threading
stop, counts = threading.Event(), {"met": 0, "other": 0}
def ask():
    daemon = http.client.HTTPConnection("phantom")
    daemon.sock = socket.socket(socket.AF_UNIX)
    daemon.sock.connect("/run/phantom/api.sock")
    query = {"where": "Cpus >= 1", "scope": "subgrid", "count": 1, "within_ms": 300}
    while not stop.is_set():
        daemon.request("POST", "/v1/query", json.dumps(query), {"content-type": "application/json"})
        reply = json.loads(daemon.getresponse().read())
        counts["met" if reply.get("outcome") == "met" else "other"] += 1
threads = [threading.Thread(target=ask) for _ in range(8)]
for thread in threads: thread.start()
sys.stdin.read()
stop.set()
for thread in threads: thread.join()
print(json.dumps(counts))
"#;

#[test]
fn a_member_that_floods_is_named_and_limited() -> anyhow::Result<()> {
    let test = "a_member_that_floods_is_named_and_limited";
    Household::scenario(test, 3, |household| {
        let leads = household.wait_agreed(&[0, 1, 2], 3)?;
        // n1 may have another root, without Python.
        let floods = if leads == 2 { 0 } else { 2 };
        let asks = household.node(3 - leads - floods);
        let members: Value = asks.phantom_json(true, &["nodes"])?;
        let mut members = members.as_array().into_iter().flatten();
        let found = members.find(|row| row["name"] == household.node(floods).name());
        let id = found.and_then(|row| row["node"].as_str()).context("it is no member")?.to_owned();
        let one = ["nodes", "--scope", "subgrid", "--count", "1"];
        asks.phantom_json::<Value>(true, &one)?;
        let mut command = household.node(floods).command(true, &["python3", "-c", FLOOD]);
        let mut flood = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        wait_until("the flooding member's name", SOON, || {
            let log = household.node(leads).daemon_log();
            let named = |line: &str| {
                line.contains("a member asks more often than it may") && line.contains(&id[..10])
            };
            Ok(log.lines().any(named))
        })?;
        let reply: Value = asks.phantom_json(true, &one)?;
        ensure!(reply["outcome"] == "met" && reply["messages"] == 2, "{reply:#}");
        drop(flood.stdin.take());
        let counts: Value = serde_json::from_slice(&flood.wait_with_output()?.stdout)?;
        ensure!(counts["met"].as_u64() > Some(0) && counts["other"].as_u64() > Some(0), "{counts}");
        // Once it asks less, it is answered again.
        wait_until("an answer", SOON, || Ok(household.node(floods).phantom(true, &one)?.code == 0))
    })
}

fn rows(reply: &Value) -> impl Iterator<Item = &Value> {
    reply["rows"].as_array().into_iter().flatten()
}

/// Who has handled a query, and as what.
fn way(reply: &Value) -> Vec<(&str, &str)> {
    let hops = reply["route"].as_array().into_iter().flatten();
    hops.filter_map(|hop| Some((hop["node"].as_str()?, hop["role"].as_str()?))).collect()
}

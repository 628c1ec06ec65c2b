//! Daemons that die and come back while apps run: nobody at a terminal notices.

use anyhow::{Context, ensure};
use phantom_tests::lab::{LabNode, MOVE, Node, Pair, SOON, Terminal, wait_until};

/// A Python REPL that remembers something.
fn repl(pair: &Pair) -> anyhow::Result<Terminal> {
    let args = ["run", "--name", "repl", "--", "/usr/bin/python3", "-q"];
    let mut repl = pair.home().terminal(&args)?;
    repl.expect(">>> ", SOON)?;
    repl.type_line("kept = 1000")?;
    repl.expect(">>> ", SOON)?;
    Ok(repl)
}

/// Has the REPL count, so that state, typing and printing are seen to work.
fn check(repl: &mut Terminal, step: u32) -> anyhow::Result<()> {
    repl.type_line(&format!("kept += 1; print('step', {step}, kept - 1000 == {step})"))?;
    repl.expect(&format!("step {step} True"), MOVE).with_context(|| format!("step {step}"))
}

fn start_again(node: &LabNode) -> anyhow::Result<()> {
    let output = node.phantom(false, &["up"])?;
    ensure!(output.code == 0, "`phantom up` on {}: {}", node.name(), output.stderr.trim());
    Ok(())
}

/// Waits until the home knows its app again and can reach the other node.
fn wait_until_known(pair: &Pair, host: &str) -> anyhow::Result<()> {
    pair.wait_for_host("repl", host)?;
    wait_until("both nodes seeing each other again", MOVE, || {
        let nodes: Vec<serde_json::Value> = pair.home().phantom_json(true, &["nodes"])?;
        Ok(nodes.len() == 2 && nodes.iter().all(|node| node["reachable"] == true))
    })
}

#[test]
fn the_homes_daemon_is_killed_while_its_app_is_at_home() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_while_its_app_is_at_home", |pair| {
        let mut repl = repl(pair)?;
        pair.home().kill_daemon()?;
        check(&mut repl, 1).context("without a daemon")?;
        start_again(pair.home())?;
        wait_until_known(pair, "attic")?;
        check(&mut repl, 2)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 3)?;
        repl.type_line("exit(9)")?;
        ensure!(repl.wait(SOON)? == 9, "the exit code did not pass through");
        Ok(())
    })
}

#[test]
fn the_homes_daemon_is_killed_while_its_app_is_away() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_while_its_app_is_away", |pair| {
        let mut repl = repl(pair)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 1)?;
        pair.home().kill_daemon()?;
        // The way between the nodes is gone with the daemon; what is typed now waits.
        repl.type_line("typed = 'without a daemon'")?;
        start_again(pair.home())?;
        wait_until_known(pair, "cellar")?;
        repl.type_line("print('was', typed)")?;
        repl.expect("was without a daemon", MOVE)?;
        check(&mut repl, 2)?;
        pair.migrate("repl", "attic")?;
        check(&mut repl, 3)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 4)?;
        repl.type_line("exit(9)")?;
        ensure!(repl.wait(SOON)? == 9, "the exit code did not pass through");
        Ok(())
    })
}

#[test]
fn the_hosts_daemon_is_killed_while_it_has_a_guest() -> anyhow::Result<()> {
    Pair::scenario("the_hosts_daemon_is_killed_while_it_has_a_guest", |pair| {
        let mut repl = repl(pair)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 1)?;
        pair.away().kill_daemon()?;
        repl.type_line("typed = 'without a daemon'")?;
        start_again(pair.away())?;
        wait_until_known(pair, "cellar")?;
        repl.type_line("print('was', typed)")?;
        repl.expect("was without a daemon", MOVE)?;
        check(&mut repl, 2)?;
        let wrote = "open('from-away', 'w').write('still')";
        repl.type_line(&format!("print('wrote', {wrote})"))?;
        repl.expect("wrote 5", MOVE).context("its files")?;
        ensure!(std::fs::read(pair.home().home_dir().join("from-away"))? == b"still", "not saved");
        pair.migrate("repl", "attic")?;
        check(&mut repl, 3)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 4)?;
        repl.type_line("exit(9)")?;
        ensure!(repl.wait(SOON)? == 9, "the exit code did not pass through");
        Ok(())
    })
}

#[test]
fn apps_outlive_a_daemon_that_is_stopped_in_order() -> anyhow::Result<()> {
    Pair::scenario("apps_outlive_a_daemon_that_is_stopped_in_order", |pair| {
        let mut repl = repl(pair)?;
        let down = pair.home().phantom(false, &["down"])?;
        ensure!(down.code == 0, "{down:?}");
        check(&mut repl, 1)?;
        // It ends while no daemon is there; the next one finds nothing of it.
        repl.type_line("exit(4)")?;
        ensure!(repl.wait(SOON)? == 4, "the exit code did not pass through");
        start_again(pair.home())?;
        wait_until("an empty `ps`", SOON, || Ok(pair.row("repl")?.is_none()))
    })
}

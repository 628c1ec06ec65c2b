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

/// Waits until the home knows its app again and can reach the other node.
fn wait_until_known(pair: &Pair, host: &str) -> anyhow::Result<()> {
    pair.wait_for_host("repl", host)?;
    pair.wait_connected()
}

/// Kills a node's daemon while the app is away; what is typed meanwhile waits for the next one.
fn type_without(node: &LabNode, pair: &Pair, repl: &mut Terminal) -> anyhow::Result<()> {
    node.kill_daemon()?;
    repl.type_line("typed = 'without a daemon'")?;
    node.up(&[])?;
    wait_until_known(pair, "cellar")?;
    repl.type_line("print('was', typed)")?;
    repl.expect("was without a daemon", MOVE)
}

/// Moves the app home and away once more; it still counts.
fn moves_again(pair: &Pair, repl: &mut Terminal) -> anyhow::Result<()> {
    pair.migrate("repl", "attic")?;
    check(repl, 3)?;
    pair.migrate("repl", "cellar")?;
    check(repl, 4)
}

/// Ends it with an exit code, which passes through.
fn exit(repl: &mut Terminal, code: i32) -> anyhow::Result<()> {
    repl.type_line(&format!("exit({code})"))?;
    let ended = repl.wait(SOON)?;
    ensure!(ended == code, "exit code {ended} came through, not {code}");
    Ok(())
}

#[test]
fn the_homes_daemon_is_killed_while_its_app_is_at_home() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_while_its_app_is_at_home", |pair| {
        let mut repl = repl(pair)?;
        pair.home().kill_daemon()?;
        check(&mut repl, 1).context("without a daemon")?;
        pair.home().up(&[])?;
        wait_until_known(pair, "attic")?;
        check(&mut repl, 2)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 3)?;
        exit(&mut repl, 9)
    })
}

#[test]
fn the_homes_daemon_is_killed_while_its_app_is_away() -> anyhow::Result<()> {
    Pair::scenario("the_homes_daemon_is_killed_while_its_app_is_away", |pair| {
        let mut repl = repl(pair)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 1)?;
        // The way between the nodes is gone with the daemon.
        type_without(pair.home(), pair, &mut repl)?;
        check(&mut repl, 2)?;
        moves_again(pair, &mut repl)?;
        exit(&mut repl, 9)
    })
}

#[test]
fn the_hosts_daemon_is_killed_while_it_has_a_guest() -> anyhow::Result<()> {
    Pair::scenario("the_hosts_daemon_is_killed_while_it_has_a_guest", |pair| {
        let mut repl = repl(pair)?;
        pair.migrate("repl", "cellar")?;
        check(&mut repl, 1)?;
        type_without(pair.away(), pair, &mut repl)?;
        check(&mut repl, 2)?;
        let wrote = "open('from-away', 'w').write('still')";
        repl.type_line(&format!("print('wrote', {wrote})"))?;
        repl.expect("wrote 5", MOVE).context("its files")?;
        ensure!(std::fs::read(pair.home().home_dir().join("from-away"))? == b"still", "not saved");
        moves_again(pair, &mut repl)?;
        exit(&mut repl, 9)
    })
}

#[test]
fn what_happened_to_an_app_is_known_after_its_homes_daemon_was_killed() -> anyhow::Result<()> {
    let test = "what_happened_to_an_app_is_known_after_its_homes_daemon_was_killed";
    Pair::scenario(test, |pair| {
        let mut repl = repl(pair)?;
        pair.migrate("repl", "cellar")?;
        // At once: what a user has been told of is on disk.
        pair.home().kill_daemon()?;
        pair.home().up(&[])?;
        wait_until_known(pair, "cellar")?;
        let has = |event: &str| -> anyhow::Result<bool> {
            Ok(pair.events("repl")?.iter().any(|row| row.event == event))
        };
        for event in
            ["start", "prepare", "freeze", "dump", "restore", "commit", "resume", "running"]
        {
            ensure!(has(event)?, "no `{event}` in {:?}", pair.events("repl")?);
        }
        pair.migrate("repl", "attic")?;
        let events = pair.events("repl")?;
        let moves = events.iter().filter(|row| row.event == "running").count();
        ensure!(moves == 2, "one life, told once: {events:?}");
        // In order, too, with what comes between the last word and the end.
        let down = pair.home().phantom(false, &["down"])?;
        ensure!(down.code == 0, "{down:?}");
        pair.home().up(&[])?;
        wait_until_known(pair, "attic")?;
        let again = pair.events("repl")?;
        ensure!(again.len() >= events.len(), "{again:?} after {events:?}");
        check(&mut repl, 1)?;
        exit(&mut repl, 9)?;
        wait_until("an empty `ps`", SOON, || Ok(pair.row("repl")?.is_none()))?;
        let gone = pair.home().phantom(true, &["log", "repl"])?;
        ensure!(gone.code == 2, "its life goes with it: {gone:?}");
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
        exit(&mut repl, 4)?;
        pair.home().up(&[])?;
        wait_until("an empty `ps`", SOON, || Ok(pair.row("repl")?.is_none()))
    })
}

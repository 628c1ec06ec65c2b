//! Who answers for a sub-grid, and that nothing is lost when that changes.

use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Household, Node, SOON, wait_until};

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

//! A service runs where the super-peer is: never twice, and with what it had saved.

mod keeper;
mod named;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use keeper::{Keeper, decree, followed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use phantom_tests::lab::{Household, Node, SOON, wait_until};

/// Longer than a lease.
const FREEZE: Duration = Duration::from_secs(16);

fn others(first: usize) -> Vec<usize> {
    (0..3).filter(|number| *number != first).collect()
}

#[test]
fn a_killed_super_peer_s_service_runs_on_elsewhere_after_its_guard_has_ended_it()
-> anyhow::Result<()> {
    let test = "a_killed_super_peer_s_service_runs_on_elsewhere_after_its_guard_has_ended_it";
    Household::scenario_alike(test, 3, |household| {
        let first = household.wait_agreed(&[0, 1, 2], 3)?;
        let keeper = Keeper::follow(household, 3, "")?;
        keeper.wait_for_life(0)?;
        keeper.wait_saved(household, first)?;
        let begin = Instant::now();
        household.node(first).kill_daemon()?;
        let counted = keeper.lives()?[0].count;
        let second = keeper.wait_for_life(1)?;
        println!("another runs it {:.1} s after the kill", begin.elapsed().as_secs_f64());
        let lives = keeper.check()?;
        ensure!(second.node != lives[0].node, "{second:?}");
        let gap = lives[1].start - lives[0].last;
        println!("nothing ran for {gap:.1} s");
        // What was counted in the last second or two was not saved.
        ensure!(second.found > 0 && second.found + 12 >= counted, "{counted} then {second:?}");
        let left = others(first);
        household.wait_agreed(&left, 3)?;
        for number in left {
            let row = followed(household, number)?;
            ensure!(row.node.as_deref() == Some(second.node.as_str()), "{row:?}");
        }
        household.node(first).restart_daemon()?;
        household.wait_agreed(&[0, 1, 2], 3)?;
        let lives = keeper.check()?;
        ensure!(lives.len() == 2, "{lives:#?}");
        Ok(())
    })
}

#[test]
fn a_frozen_daemon_s_service_is_ended_before_another_starts_it() -> anyhow::Result<()> {
    let test = "a_frozen_daemon_s_service_is_ended_before_another_starts_it";
    Household::scenario_alike(test, 3, |household| {
        let first = household.wait_agreed(&[0, 1, 2], 3)?;
        let keeper = Keeper::follow(household, 3, "")?;
        keeper.wait_for_life(0)?;
        keeper.wait_saved(household, first)?;
        let frozen = Instant::now();
        let pid = Pid::from_raw(household.node(first).daemon_pid()?);
        kill(pid, Signal::SIGSTOP)?;
        let second = keeper.wait_for_life(1)?;
        let lives = keeper.check()?;
        ensure!(lives[0].node != second.node, "{lives:#?}");
        wait_until("the end of the freeze", 2 * FREEZE, || Ok(frozen.elapsed() >= FREEZE))?;
        kill(pid, Signal::SIGCONT)?;
        household.wait_agreed(&[0, 1, 2], 3)?;
        // Whoever is super-peer now, one copy runs, and it goes on.
        let before = keeper.lives()?.iter().map(|life| life.count).max();
        wait_until("it counts on", SOON, || {
            Ok(keeper.lives()?.iter().map(|life| life.count).max() > before)
        })?;
        let lives = keeper.check()?;
        let copies: usize =
            (0..3).map(|number| household.node(number).processes_with("keeper.py").len()).sum();
        ensure!(copies == 2, "the service and its child, not {copies}: {lives:#?}");
        Ok(())
    })
}

#[test]
fn a_super_peer_that_goes_in_order_hands_the_service_over_at_once_with_all_of_its_state()
-> anyhow::Result<()> {
    let test =
        "a_super_peer_that_goes_in_order_hands_the_service_over_at_once_with_all_of_its_state";
    Household::scenario_alike(test, 3, |household| {
        let first = household.wait_agreed(&[0, 1, 2], 3)?;
        let keeper = Keeper::follow(household, 3, "")?;
        keeper.wait_for_life(0)?;
        let begin = Instant::now();
        let down = household.node(first).phantom(false, &["down"])?;
        ensure!(down.code == 0, "{down:?}");
        let second = keeper.wait_for_life(1)?;
        let lives = keeper.check()?;
        let gap = lives[1].start - lives[0].last;
        println!(
            "handed over {:.1} s after `phantom down`; nothing ran for {gap:.1} s",
            begin.elapsed().as_secs_f64()
        );
        // It may have counted once more than it had written down.
        ensure!(second.found >= lives[0].count, "{lives:#?}");
        ensure!(gap < 8.0, "a lease was waited for: {gap}");
        Ok(())
    })
}

#[test]
fn a_service_that_fails_or_grows_too_large_is_kept_and_a_new_daemon_takes_it_up()
-> anyhow::Result<()> {
    let test = "a_service_that_fails_or_grows_too_large_is_kept_and_a_new_daemon_takes_it_up";
    Household::scenario_alike(test, 1, |household| {
        household.wait_agreed(&[0], 1)?;
        let keeper = Keeper::follow(household, 1, "")?;
        for number in 0..3 {
            let life = keeper.wait_for_life(number)?;
            kill(Pid::from_raw(life.pid), Signal::SIGKILL)?;
        }
        keeper.wait_for_life(3)?;
        let lives = keeper.check()?;
        for (pair, pause) in lives.windows(2).zip([1.0, 2.0, 4.0]) {
            let gap = pair[1].start - pair[0].last;
            ensure!((pause..pause + 3.0).contains(&gap), "{gap} s instead of {pause}");
            ensure!(pair[1].found >= pair[0].count, "its folder stays as it is: {pair:#?}");
        }
        let row = followed(household, 0)?;
        ensure!(row.exit.as_deref().is_some_and(|it| it.contains("SIGKILL")), "{row:?}");

        std::fs::write(keeper.shared().join("big"), "")?;
        wait_until("words on its size", SOON, || {
            let row = followed(household, 0)?;
            let says = row.trouble.as_deref().is_some_and(|it| it.contains("at most 48 KiB"));
            Ok(says && row.node.is_some())
        })?;
        std::fs::remove_file(keeper.shared().join("big"))?;
        wait_until("it is saved again", SOON, || Ok(followed(household, 0)?.trouble.is_none()))?;

        // A daemon that comes back in time finds it running, and gives it time again.
        let life = keeper.wait_for_life(3)?;
        household.node(0).restart_daemon()?;
        let begin = Instant::now();
        wait_until("longer than a lease", 2 * FREEZE, || Ok(begin.elapsed() >= FREEZE))?;
        let lives = keeper.check()?;
        ensure!(lives.len() == 4, "{lives:#?}");
        let now = lives.last().context("none")?;
        ensure!(now.pid == life.pid && now.count > life.count, "{now:?}");
        ensure!(followed(household, 0)?.node.is_some());

        // Its owner wants none, and the policy wants it elsewhere.
        let node = household.node(0);
        node.configure("follow", Some("false"))?;
        node.restart_daemon()?;
        wait_until("its end", SOON, || {
            let why = followed(household, 0)?.why.unwrap_or_default();
            Ok(why.contains("owner of n0") && node.processes_with("keeper.py").is_empty())
        })?;
        decree(household, "# nothing is followed")?;
        wait_until("nothing is followed", SOON, || Ok(household.state(0)?.follows.is_empty()))?;
        Ok(())
    })
}

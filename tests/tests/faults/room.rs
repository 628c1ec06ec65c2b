//! No room at the target: memory, image, cache; and requests that come at the wrong time.

use anyhow::ensure;
use phantom_tests::lab::{Node, Pair, SOON};

use crate::session::{Session, one_line};

#[test]
fn a_target_without_room_for_the_image_gives_the_app_back() -> anyhow::Result<()> {
    Pair::scenario("a_target_without_room_for_the_image_gives_the_app_back", |pair| {
        let mut session = Session::start(pair, "repl")?;
        session
            .run("import os; ballast = os.urandom(64 << 20); print(len(ballast))", "67108864")?;
        pair.away().kill_daemon()?;
        let tiny = "mount -t tmpfs -o size=24m tmpfs /run/phantom";
        pair.away().enter(&["sh", "-c", tiny])?;
        pair.away().up(&[])?;
        pair.wait_connected()?;
        let line = session.refused(pair.away())?;
        ensure!(line.contains("repl stays on attic"), "{line}");
        ensure!(line.contains("of room in /run/phantom, the image needs"), "{line}");
        session.lives_on(pair.home())?;
        // Room that is gone by the time the image comes.
        pair.away().enter(&["mount", "-o", "remount,size=100m", "/run/phantom"])?;
        let moving = pair.held_move(pair.home(), "source:freeze", "repl", "cellar")?;
        let filler = "head -c 60M /dev/zero > /run/phantom/filler";
        pair.away().enter(&["sh", "-c", filler])?;
        pair.home().let_go()?;
        let error = moving.fails()?;
        ensure!(error.contains("cellar could not store the image"), "{error}");
        ensure!(error.contains("No space left"), "{error}");
        session.lives_on(pair.home())?;
        session.end()
    })
}

#[test]
fn a_full_cache_disk_costs_time_only() -> anyhow::Result<()> {
    Pair::scenario("a_full_cache_disk_costs_time_only", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let full = "mkdir -p /var/cache/phantom && \
                    mount -t tmpfs -o size=64k tmpfs /var/cache/phantom && \
                    head -c 60K /dev/zero > /var/cache/phantom/filler";
        pair.away().enter(&["sh", "-c", full])?;
        pair.migrate("repl", "cellar")?;
        session.run("import decimal; print(decimal.Decimal(2).sqrt())", "1.414")?;
        session.lives_on(pair.away())?;
        session.end()
    })
}

#[test]
fn a_move_is_not_disturbed_by_another_or_by_kill() -> anyhow::Result<()> {
    Pair::scenario("a_move_is_not_disturbed_by_another_or_by_kill", |pair| {
        let mut session = Session::start(pair, "repl")?;
        let moving = pair.held_move(pair.away(), "target:restore", "repl", "cellar")?;
        let line = session.refused(pair.away())?;
        ensure!(line.contains("repl is moving already"), "{line}");
        let killed = pair.home().phantom(true, &["kill", "repl"])?;
        let line = one_line(killed.code, &killed.stderr)?;
        ensure!(line.contains("repl is moving; try again"), "{line}");
        pair.away().let_go()?;
        moving.wait()?;
        session.lives_on(pair.away())?;
        let killed = pair.home().phantom(true, &["kill", "repl"])?;
        ensure!(killed.code == 0, "{}", killed.stderr);
        let code = session.terminal().wait(SOON)?;
        ensure!(code == 143, "ended by SIGTERM, not with {code}");
        Ok(())
    })
}

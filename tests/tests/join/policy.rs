//! The sub-grid's policy: signed where the sub-grid was founded, obeyed by all.

use anyhow::ensure;
use phantom_tests::lab::{Node, Pair, SOON, wait_until};
use serde_json::Value;

use crate::refused;

const FILE: &str = "/tmp/policy.toml";

/// Signs a policy on attic; what the command printed.
fn decree(pair: &Pair, text: &str) -> anyhow::Result<phantom_tests::lab::Output> {
    let script = format!("cat > {FILE} <<'END'\n{text}\nEND");
    pair.home().enter(&["sh", "-c", &script])?;
    pair.home().phantom(false, &["policy", "edit", "--file", FILE])
}

#[test]
fn a_policy_is_obeyed_by_all_also_by_who_is_alone() -> anyhow::Result<()> {
    let Some(pair) = Pair::open("a_policy_is_obeyed_by_all_also_by_who_is_alone")? else {
        return Ok(());
    };
    let (attic, cellar) = (pair.home(), pair.away());
    let shown = cellar.phantom(true, &["policy", "show"])?;
    ensure!(shown.stdout.contains("No policy yet"), "{}", shown.stdout);
    let wrong = decree(&pair, "[defaults]\nlimits = \"cpu=9x\"")?;
    ensure!(wrong.code == 2 && wrong.stderr.contains("`9x` is not a share of a core"), "{wrong:?}");
    let policy = "[defaults]\nlimits = \"cpu=150%/10s\"\n[[ceiling]]\nwho = [\"user:ada\"]\n\
                  limits = \"memory=1GiB\"\n[[place]]\nwho = [\"user:ada\"]\nnodes = [\"cellar\"]\n\
                  allow = false";
    let signed = decree(&pair, policy)?;
    ensure!(signed.code == 0 && signed.stdout.contains("Version 1 is signed"), "{signed:?}");
    wait_until("cellar knows it", SOON, || {
        Ok(cellar.phantom_json::<Value>(true, &["policy", "show"])?["version"] == 1)
    })?;
    let elsewhere =
        cellar.phantom(false, &["policy", "edit", "--file", "/etc/phantom/phantom.toml"])?;
    ensure!(elsewhere.code != 0, "only who holds the key signs: {elsewhere:?}");

    // Default, ceiling and place.
    let mut repl = attic.terminal(&[
        "run",
        "--name",
        "repl",
        "--limit",
        "memory=8GiB",
        "--",
        "python3",
        "-q",
    ])?;
    repl.expect("allows ada at most `memory=1GiB/1s`, not `memory=8GiB/1s`", SOON)?;
    repl.expect(">>> ", SOON)?;
    let rows: Vec<Value> = attic.phantom_json(true, &["ps"])?;
    ensure!(rows[0]["limits"] == "memory=1GiB/1s,cpu=150%/10s", "{}", rows[0]["limits"]);
    refused(
        &attic.phantom(true, &["migrate", "repl", "cellar"])?,
        1,
        "the sub-grid's policy (place 1) keeps apps of ada away",
    )?;
    let explained = attic.phantom(true, &["explain", "repl"])?;
    ensure!(explained.stdout.contains("policy (place 1)"), "{}", explained.stdout);

    // Whoever is alone obeys the newest it knows, also after a restart.
    let taken_back = decree(&pair, "# everybody is free\n")?;
    ensure!(taken_back.code == 0, "{}", taken_back.stderr);
    pair.set_link(false)?;
    attic.restart_daemon()?;
    let row: Value = attic.phantom_json(true, &["policy", "show"])?;
    ensure!(row["version"] == 2, "{row}");
    pair.set_link(true)?;
    pair.wait_connected()?;
    pair.migrate("repl", "cellar")?;
    let history = cellar.phantom(true, &["policy", "history"])?;
    ensure!(history.stdout.contains("version 2"), "{}", history.stdout);
    let history = attic.phantom(true, &["policy", "history"])?;
    ensure!(history.stdout.contains("- allow = false"), "{}", history.stdout);
    Ok(())
}

//! Virtual organisations: apps under one stay among its members.

use anyhow::{Context, ensure};
use phantom_tests::lab::{Household, LabNode, Node, Output, Pair, SOON, wait_until};
use serde_json::Value;

/// A REPL under the virtual organisation physics, which will exceed its limit when it is told to.
const REPL: [&str; 11] = [
    "run",
    "--name",
    "repl",
    "--vo",
    "physics",
    "--limit",
    "cpu=25%/2s",
    "--",
    "python3",
    "-q",
    "-i",
];
/// A loop that keeps one core busy until a file ends it.
const BUSY: &str = "import os, time; exec('''look = time.time() + 0.2\nwhile time.time() < look or \
    not os.path.exists('done'):\n    if time.time() >= look: look = time.time() + 0.2''')";

fn refused(output: &Output, code: i32, words: &str) -> anyhow::Result<()> {
    let line = output.stderr.trim();
    ensure!(output.code == code, "exit code {} not {code}: {line}", output.code);
    ensure!(line.lines().count() == 1 && line.contains(words), "not `{words}` but `{line}`");
    Ok(())
}

fn done(output: Output) -> anyhow::Result<Output> {
    ensure!(output.code == 0, "{}", output.stderr.trim());
    Ok(output)
}

fn vo(node: &LabNode, args: &[&str]) -> anyhow::Result<Output> {
    done(node.phantom(false, &[&["vo"], args].concat())?)
}

/// The rows of `phantom vo list`, as an ordinary user.
fn rows(node: &LabNode) -> anyhow::Result<Vec<Value>> {
    node.phantom_json(true, &["vo", "list"])
}

/// Waits until a node knows the virtual organisation in that version.
fn wait_version(node: &LabNode, name: &str, version: u64) -> anyhow::Result<()> {
    let what = format!("version {version} of {name} on {}", node.name());
    wait_until(&what, SOON, || {
        Ok(rows(node)?.iter().any(|row| row["name"] == name && row["version"] == version))
    })
}

fn names(node: &LabNode, args: &[&str]) -> anyhow::Result<Vec<String>> {
    let answer: Value = node.phantom_json(true, &[&["nodes"], args].concat())?;
    let listed = answer.as_array().or_else(|| answer["rows"].as_array()).context("no rows")?;
    let mut names: Vec<String> =
        listed.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect();
    names.sort();
    Ok(names)
}

#[test]
fn an_app_under_a_virtual_organisation_stays_among_its_members() -> anyhow::Result<()> {
    Household::scenario("an_app_under_a_virtual_organisation_stays_among_its_members", 3, |it| {
        let [home, member, stranger] = [0, 1, 2].map(|number| it.node(number));
        wrong_use(home, stranger)?;
        vo(home, &["create", "physics", "n0", "n1"])?;
        wait_version(stranger, "physics", 1)?;
        wait_version(member, "physics", 1)?;
        listings(home)?;
        policies(home)?;

        refused(
            &stranger.phantom(true, &REPL)?,
            1,
            "this node, n2, is not in the virtual organisation physics",
        )?;
        let mut repl = home.terminal(&REPL)?;
        repl.expect(">>> ", SOON)?;
        let row: Vec<Value> = home.phantom_json(true, &["ps"])?;
        ensure!(row[0]["vo"] == "physics", "{row:?}");
        let shown = done(home.phantom(true, &["ps"])?)?.stdout;
        ensure!(shown.contains(" VO ") && shown.contains(" physics "), "{shown}");

        // By hand.
        let words = "is not in the virtual organisation physics";
        refused(&home.phantom(true, &["migrate", "repl", "n2"])?, 1, words)?;
        let explained = done(home.phantom(true, &["explain", "repl"])?)?.stdout;
        ensure!(explained.contains(&format!("n2: {words}")), "{explained}");
        ensure!(explained.contains("n1: rank"), "{explained}");
        home.migrate("repl", "n1")?;
        home.migrate("repl", "n0")?;

        // By its limit, where only the stranger is left.
        member.kill_daemon()?;
        wait_until("n1 is gone", SOON, || {
            Ok(home.phantom(true, &["explain", "repl"])?.stdout.contains("n1: does not answer"))
        })?;
        repl.type_line(BUSY)?;
        wait_until("a word why it stays", SOON, || {
            let events = home.events("repl")?;
            let stays = |event: &phantom_tests::lab::Event| {
                event.event == "stays" && event.detail.contains(&format!("n2 {words}"))
            };
            ensure!(!events.iter().any(|event| event.event == "choice"), "{events:?}");
            Ok(events.iter().any(stays))
        })
        .with_context(|| format!("{:?}", home.events("repl")))?;
        home.shell("touch done")?;
        repl.expect(">>> ", SOON)?;

        // Who was away knows it all from its own disk.
        let before = rows(home)?;
        member.restart_daemon()?;
        let after = rows(member)?;
        ensure!(after.len() == 1 && after[0]["members"] == before[0]["members"], "{after:?}");
        home.wait_for_nodes(3)?;

        // Where it may not be any more, it does not stay.
        home.migrate("repl", "n1")?;
        vo(home, &["remove", "physics", "n1"])?;
        repl.expect("repl moved to n0: it may not be on n1 under the virtual organisation", SOON)?;
        home.wait_for_host("repl", "n0")?;
        repl.type_line("print(6 * 7)")?;
        repl.expect("42", SOON)?;
        vo(home, &["dissolve", "physics"])?;
        refused(
            &home.phantom(true, &["vo", "list", "physics"])?,
            2,
            "no virtual organisation `physics` is known here",
        )
    })
}

fn wrong_use(home: &LabNode, stranger: &LabNode) -> anyhow::Result<()> {
    let none = done(home.phantom(true, &["vo", "list"])?)?.stdout;
    ensure!(none.contains("No virtual organisation yet"), "{none}");
    let create = |node: &LabNode, root: bool, args: &[&str]| {
        node.phantom(!root, &[&["vo", "create", "physics"], args].concat())
    };
    refused(&create(home, false, &["n0"])?, 1, "only root may say who is in")?;
    refused(&create(stranger, true, &["n0"])?, 1, "this node may not let others in: do it on n0")?;
    refused(&create(home, true, &["n7"])?, 2, "no node `n7` is in the sub-grid")?;
    refused(&create(home, true, &["grid://x"])?, 2, "has one label only")?;
    refused(&create(home, true, &["subgrid:0123"])?, 2, "no sub-grid known here")?;
    refused(&home.phantom(false, &["vo", "create", "a b"])?, 1, "cannot be the name")?;
    refused(&home.phantom(false, &["vo", "add", "x", "n0"])?, 1, "owns no virtual organisation x")?;
    let run = ["run", "--vo", "chemistry", "--", "true"];
    refused(&home.phantom(true, &run)?, 2, "no virtual organisation `chemistry` is known here")
}

fn listings(home: &LabNode) -> anyhow::Result<()> {
    let row = rows(home)?.remove(0);
    ensure!(row["members"].as_array().is_some_and(|all| all.len() == 2), "{row}");
    ensure!(row["this"] == true && row["nodes"] == serde_json::json!(["n0", "n1"]), "{row}");
    let told = done(home.phantom(true, &["vo", "list", "physics"])?)?.stdout;
    ensure!(told.contains("nodes here  n0, n1"), "{told}");
    let full = row["full_name"].as_str().context("no full name")?;
    for name in ["physics", full] {
        ensure!(names(home, &["--vo", name])? == ["n0", "n1"], "{name}");
    }
    let asked = ["--vo", "physics", "--where", "Name != \"n0\""];
    ensure!(names(home, &asked)? == ["n1"]);
    ensure!(names(home, &[&asked[..], &["--scope", "subgrid"]].concat())? == ["n1"]);
    vo(home, &["create", "all", "subgrid", "grid://campus.example.org"])?;
    ensure!(names(home, &["--vo", "all"])?.len() == 3);
    vo(home, &["dissolve", "all"]).map(drop)
}

/// The policy names virtual organisations that are known, and no others.
fn policies(home: &LabNode) -> anyhow::Result<()> {
    let edit = |text: &str| -> anyhow::Result<Output> {
        let script = format!("cat > /tmp/policy.toml <<'END'\n{text}\nEND");
        home.enter(&["sh", "-c", &script])?;
        home.phantom(false, &["policy", "edit", "--file", "/tmp/policy.toml"])
    };
    let place = |vo: &str| {
        format!("[[place]]\nwho = [\"everybody\"]\nnodes = [\"vo:{vo}\"]\nallow = false")
    };
    refused(&edit(&place("chemistry"))?, 2, "the virtual organisation `chemistry`")?;
    done(edit(&place("physics"))?)?;
    let runs = || wait_until("cat to run", SOON, || Ok(home.row("cat")?.is_some()));
    let mut cat = home.terminal(&["run", "--name", "cat", "--", "cat"])?;
    runs()?;
    refused(&home.phantom(true, &["migrate", "cat", "n1"])?, 1, "policy (place 1)")?;
    done(home.phantom(true, &["kill", "cat"])?)?;
    cat.wait(SOON)?;
    let condition = "[[place]]\nwho = [\"everybody\"]\nvo = \"physics\"\nallow = true\n\
                     [[ceiling]]\nwho = [\"vo:physics\"]\nlimits = \"memory=1GiB\"";
    done(edit(condition)?)?;
    let mut cat = home.terminal(&["run", "--name", "cat", "--vo", "physics", "--", "cat"])?;
    runs()?;
    let row: Vec<Value> = home.phantom_json(true, &["ps"])?;
    ensure!(row[0]["limits"] == "memory=1GiB/1s", "{row:?}");
    done(home.phantom(true, &["kill", "cat"])?)?;
    cat.wait(SOON)?;
    done(edit("# everybody is free\n")?).map(drop)
}

#[test]
fn a_target_goes_by_its_own_documents() -> anyhow::Result<()> {
    Pair::scenario("a_target_goes_by_its_own_documents", |pair| {
        let (attic, cellar) = (pair.home(), pair.away());
        done(attic.phantom(false, &["delegate", "cellar"])?)?;
        wait_until("cellar may let others in", SOON, || {
            Ok(cellar.phantom(true, &["requests"])?.code == 0)
        })?;
        vo(attic, &["create", "physics", "attic", "cellar"])?;
        vo(attic, &["add", "physics", "subgrid"])?;
        vo(attic, &["remove", "physics", "subgrid"])?;
        wait_version(cellar, "physics", 3)?;
        let mut repl =
            attic.terminal(&["run", "--name", "repl", "--vo", "physics", "--", "python3", "-q"])?;
        repl.expect(">>> ", SOON)?;

        // When the home has looked, both are in it; when the target looks, one is not.
        for (number, gone, words) in [
            (0, "cellar", "it is not in the virtual organisation physics"),
            (1, "attic", "its home is not in the virtual organisation physics"),
        ] {
            let moving = pair.held_move(cellar, "target:prepare", "repl", "cellar")?;
            vo(cellar, &["remove", "physics", gone])?;
            cellar.let_go()?;
            let said = moving.fails()?;
            ensure!(said.contains("repl stays on attic") && said.contains(words), "{said}");
            wait_version(attic, "physics", 4 + 2 * number)?;
            // Now the home knows it, too.
            refused(&attic.phantom(true, &["migrate", "repl", "cellar"])?, 1, &words[3..])?;
            vo(cellar, &["add", "physics", gone])?;
            wait_version(attic, "physics", 5 + 2 * number)?;
        }
        cellar.hold_at(None)?;
        pair.wait_connected()?;
        pair.migrate("repl", "cellar")?;
        repl.type_line("print(6 * 7)")?;
        repl.expect("42", SOON)
    })
}

//! Regions of several sub-grids: founded, found by name, asked, and kept when machines go.

use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Campus, Node, REGION, SOON, wait_until};
use serde_json::Value;

/// How long it may take until another sub-grid knows of a virtual organisation and its region.
const TOLD: Duration = Duration::from_secs(90);

fn names(reply: &Value) -> Vec<String> {
    let rows = reply["rows"].as_array().cloned().unwrap_or_default();
    let mut names: Vec<String> =
        rows.iter().filter_map(|row| Some(row["name"].as_str()?.to_owned())).collect();
    names.sort();
    names
}

#[test]
fn a_region_is_founded_found_by_name_and_asked() -> anyhow::Result<()> {
    let test = "a_region_is_founded_found_by_name_and_asked";
    Campus::scenario(test, &[1, 1, 2], |campus| {
        campus.found_region()?;
        // What the own sub-grid has stays inside.
        let own = "regexp(\"^s1\", Name)";
        let inside = campus.query(1, &["--where", own, "--scope", "grid", "--count", "1"])?;
        ensure!(names(&inside) == ["s1n0"], "{inside}");
        ensure!(inside["messages"].as_u64().is_some_and(|count| count <= 4), "{inside}");
        // What only others have is found through the region-peer, from a plain member as well.
        for (site, wanted) in [(1, ["s2n0", "s2n1"]), (0, ["s2n0", "s2n1"])] {
            let expr = "regexp(\"^s2\", Name)";
            let args = ["--where", expr, "--scope", "region", "--count", "2"];
            wait_until("both machines of the third sub-grid", SOON, || {
                let found = campus.query(site, &args)?;
                ensure!(found["messages"].as_u64().is_some_and(|count| count <= 40), "{found}");
                Ok(names(&found) == wanted)
            })?;
        }
        let state = campus.state(2, 1)?;
        ensure!(state.sites.len() == 3 && state.sites.iter().all(|site| site.up), "{state:#?}");
        // A site that is put out is told, and asks nobody any more.
        campus.admin(0, &["region", "remove", "site1"])?;
        campus.wait("to be put out", (1, 0), |it| it.membership == "put out")?;
        wait_until("no region to ask", SOON, || {
            let args = ["--where", "Cpus > 4000", "--scope", "region", "--count", "1"];
            Ok(campus.query(1, &args)?["outcome"] == "alone")
        })?;
        let refused = campus.refused(1, &["region", "approve", "site1"])?;
        ensure!(refused.contains("does not hold the key"), "{refused}");
        Ok(())
    })
}

#[test]
fn another_answers_for_the_region_and_its_entry_follows() -> anyhow::Result<()> {
    let test = "another_answers_for_the_region_and_its_entry_follows";
    Campus::scenario(test, &[1, 1, 1], |campus| {
        campus.found_region()?;
        for site in 0..3 {
            campus.wait("three electors", (site, 0), |it| it.electors.len() == 3)?;
        }
        let first = campus.region_peer()?;
        let before = campus.state(first, 0)?;
        campus.node(first, 0).kill_daemon()?;
        let next = (first + 1) % 3;
        let after = campus.wait("another region-peer and its entry", (next, 0), |it| {
            it.region_peer.is_some()
                && it.mandate != before.mandate
                && it.zone.starts_with("written")
        })?;
        ensure!(after.region_peer != before.region_peer, "{after:#?}");
        // Who comes back finds the new one, and so does who asks the DNS for the first time.
        campus.node(first, 0).restart_daemon()?;
        campus.wait("the one that came back", (first, 0), |it| {
            it.region_peer.is_some() && it.mandate >= after.mandate
        })?;
        campus.wait("all sites", (next, 0), |it| it.sites.iter().all(|site| site.up))?;
        Ok(())
    })
}

#[test]
fn a_key_is_replaced_and_a_forged_entry_believed_by_nobody() -> anyhow::Result<()> {
    let test = "a_key_is_replaced_and_a_forged_entry_believed_by_nobody";
    Campus::scenario(test, &[1, 1, 1], |campus| {
        campus.admin(0, &["region", "init", REGION, "--name", "site0"])?;
        campus.wait("an entry in the DNS", (0, 0), |it| it.zone.starts_with("written"))?;
        campus.let_in(1)?;
        let before = campus.state(0, 0)?.key;
        campus.admin(0, &["region", "rotate"])?;
        let after = campus.state(0, 0)?.key;
        ensure!(after != before, "the key is the same");
        campus.wait("the new key", (1, 0), |it| it.key == after)?;
        campus.wait("the new entry", (0, 0), |it| it.zone.starts_with("written"))?;
        // Who registers now meets the new key; while the DNS is down it is told so.
        campus.stop_bind();
        let refused = campus.refused(2, &["site", "register", REGION])?;
        ensure!(refused.contains("name server"), "{refused}");
        // An entry that somebody has forged as a whole names a machine that is of no such region.
        let forged = format!(
            "_phantom._udp URI 10 1 \"phantom://10.77.1.3:41610/?key={}&node={}&at=9.9\"\n",
            "ab".repeat(32),
            campus.node(1, 0).phantom_json::<Value>(true, &["nodes"])?[0]["node"]
                .as_str()
                .context("no id")?,
        );
        campus.write_zone(&forged)?;
        campus.start()?;
        let refused = campus.refused(2, &["site", "register", REGION])?;
        ensure!(refused.contains("cannot show that it is of it"), "{refused}");
        // Who knows the key stays with it, and says what is wrong.
        campus.node(1, 0).restart_daemon()?;
        let state = campus.wait("the region-peer in spite of it", (1, 0), |it| {
            it.membership == "site" && it.region_peer.is_some()
        })?;
        ensure!(state.key == after, "{state:#?}");
        Ok(())
    })
}

#[test]
fn an_update_that_is_refused_is_told() -> anyhow::Result<()> {
    let test = "an_update_that_is_refused_is_told";
    let Some(campus) = Campus::open(test, &[1], "other")? else { return Ok(()) };
    let said = campus.admin(0, &["region", "init", REGION])?;
    ensure!(said.contains("refuse"), "{said}");
    let state = campus.wait("what the server says", (0, 0), |it| it.zone.contains("refuse"))?;
    ensure!(state.region_peer.is_some(), "{state:#?}");
    Ok(())
}

#[test]
fn two_regions_ask_each_other_when_both_admins_say_so() -> anyhow::Result<()> {
    let test = "two_regions_ask_each_other_when_both_admins_say_so";
    let other = "grid://other.example.org";
    Campus::scenario(test, &[1, 1], |campus| {
        for (site, uri) in [(0, REGION), (1, other)] {
            campus.admin(site, &["region", "init", uri])?;
            campus.wait("its entry", (site, 0), |it| it.zone.starts_with("written"))?;
        }
        let args = ["--where", "regexp(\"^s1\", Name)", "--scope", "grid", "--count", "1"];
        campus.admin(0, &["region", "peer", other])?;
        ensure!(names(&campus.query(0, &args)?).is_empty(), "the other side has not agreed");
        campus.admin(1, &["region", "peer", REGION])?;
        for site in [0, 1] {
            campus.wait("the other region", (site, 0), |it| it.peers.iter().any(|peer| peer.1))?;
        }
        wait_until("the machine of the other region", SOON, || {
            let found = campus.query(0, &args)?;
            ensure!(found["messages"].as_u64().is_some_and(|count| count <= 30), "{found}");
            Ok(names(&found) == ["s1n0"])
        })?;
        // In the own region nobody has it.
        let args = ["--where", "regexp(\"^s1\", Name)", "--scope", "region", "--count", "1"];
        ensure!(names(&campus.query(0, &args)?).is_empty(), "it is of another region");
        campus.admin(1, &["region", "peer", REGION, "--withdraw"])?;
        campus.wait("silence", (0, 0), |it| it.peers.iter().all(|peer| !peer.1)).map(drop)
    })
}

#[test]
fn of_several_regions_the_nearest_is_asked() -> anyhow::Result<()> {
    let test = "of_several_regions_the_nearest_is_asked";
    let (other, nobody) = ("grid://other.example.org", "grid://nobody.campus.example.org");
    Campus::scenario(test, &[1, 1, 1], |campus| {
        for (site, uri) in [(0, REGION), (1, other)] {
            campus.admin(site, &["region", "init", uri])?;
            campus.wait("its entry", (site, 0), |it| it.zone.starts_with("written"))?;
        }
        // A way so narrow that what is said must wait for what was said before.
        let narrow = ["tbf", "rate", "64kbit", "burst", "1600", "latency", "2s"];
        let far = |site: usize, what: &str| {
            let qdisc = ["tc", "qdisc", what, "dev", "ph1b", "root"];
            let narrow = if what == "add" { &narrow[..] } else { &[] };
            campus.node(site, 0).enter(&[&qdisc, narrow].concat())
        };
        far(0, "add")?;
        let register = ["site", "register", REGION, nobody, other, "--name", "site2"];
        let said = campus.admin(2, &register)?;
        ensure!(said.starts_with(&format!("Asked {other}, found ")), "{said}");
        let further = format!("away; {REGION} is ");
        ensure!(said.contains("It is the nearest, ") && said.contains(&further), "{said}");
        ensure!(said.contains(&format!("Not {nobody}: ")), "{said}");
        campus
            .wait("its request", (1, 0), |it| it.asking.iter().any(|it| it["name"] == "site2"))?;
        // Whom it has asked it asks again, whoever is near by then.
        far(0, "del")?;
        far(1, "add")?;
        let again = campus.admin(2, &register)?;
        ensure!(again.starts_with(&format!("Asked {other}, found ")), "{again}");
        let refused = campus.refused(2, &["site", "register", REGION, nobody])?;
        ensure!(refused.contains(&format!("belongs to {other} or has asked it")), "{refused}");
        Ok(())
    })
}

#[test]
fn a_virtual_organisation_reaches_across_the_region() -> anyhow::Result<()> {
    let test = "a_virtual_organisation_reaches_across_the_region";
    Campus::scenario(test, &[1, 1], |campus| {
        campus.found_region()?;
        let state: Value = campus.node(0, 0).phantom_json(true, &["region", "list"])?;
        let sites = state["sites"].as_array().cloned().unwrap_or_default();
        let site = sites.iter().find(|site| site["name"] == "site1").context("no site1")?;
        let member = format!("subgrid:{}", site["subgrid"].as_str().context("no id")?);
        campus.admin(0, &["vo", "create", "physics", &member])?;
        let args = ["--where", "true", "--scope", "region", "--count", "2", "--vo", "physics"];
        wait_until("its only member, in the other sub-grid", TOLD, || {
            // Until it is told of it, a sub-grid refuses the name.
            Ok(campus.query(0, &args).is_ok_and(|found| names(&found) == ["s1n0"]))
        })?;
        // The region as a whole has everybody in it.
        campus.admin(0, &["vo", "create", "everybody", REGION])?;
        let args = ["--where", "true", "--scope", "region", "--count", "2", "--vo", "everybody"];
        wait_until("both", TOLD, || {
            Ok(campus.query(1, &args).is_ok_and(|found| names(&found) == ["s0n0", "s1n0"]))
        })
    })
}

/// The commands for the name server, as the README shows them.
fn commands() -> anyhow::Result<String> {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme)?;
    let begin = readme.find("tsig-keygen campus").context("the README has no such commands")?;
    let commands = readme[begin..].split("```").next().unwrap_or_default();
    let count = commands.lines().filter(|line| !line.is_empty()).count();
    ensure!(count == 5, "{count} commands:\n{commands}");
    Ok(commands.to_owned())
}

#[test]
fn the_five_commands_of_the_readme_are_all_that_bind_needs() -> anyhow::Result<()> {
    let test = "the_five_commands_of_the_readme_are_all_that_bind_needs";
    let Some(campus) = Campus::open_by(test, &[1, 1], &commands()?)? else { return Ok(()) };
    let said = campus.admin(0, &["region", "init", REGION, "--name", "physics"])?;
    ensure!(said.contains("written"), "{said}");
    campus.let_in(1)
}

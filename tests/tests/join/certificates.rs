//! Nodes whose certificate is another sub-grid's, over, or not what was signed.

use anyhow::{Context, ensure};
use phantom_model::NodeId;
use phantom_tests::lab::{LabNode, Node, SOON, wait_until};
use serde_json::Value;

use crate::papers::{Papers, certify, member, subgrid_key};
use crate::{invite, join, members, refused, three};

/// What the daemon logs when it does not let a node in.
const TURNED_AWAY: &str = "a node was turned away";

/// The row of `name` among the nodes that `node` lists.
fn row(node: &LabNode, name: &str) -> anyhow::Result<Value> {
    let rows: Vec<Value> = node.phantom_json(false, &["nodes"])?;
    rows.into_iter().find(|row| row["name"] == name).with_context(|| format!("no node {name}"))
}

fn id(node: &LabNode) -> anyhow::Result<NodeId> {
    let row = row(node, node.name())?;
    Ok(row["node"].as_str().context("no id")?.parse()?)
}

/// Starts a daemon that logs its attempts, too.
fn up_talkative(node: &LabNode) -> anyhow::Result<()> {
    let mut up = node.phantom_command(false, &["up"]);
    let output = up.env("PHANTOM_LOG", "info,phantom_net::peer=debug,iroh=warn").output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn count(log: &str, text: &str) -> usize {
    log.matches(text).count()
}

/// `member` turns `stranger` away, which keeps trying: the stranger is told why, and so is the
/// member's owner, once.
fn turned_away(member: &LabNode, stranger: &LabNode, words: &[&str]) -> anyhow::Result<()> {
    wait_until("three refused attempts", SOON, || {
        let row = row(stranger, member.name())?;
        ensure!(row["reachable"] == false && row["cores"].is_null(), "it was let in: {row}");
        let tried = count(&stranger.daemon_log(), "a member is out of reach");
        let path = row["path"].as_str().unwrap_or_default();
        Ok(tried >= 3 && words.iter().all(|word| path.contains(word)))
    })?;
    let log = member.daemon_log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(TURNED_AWAY)).collect();
    let [line] = lines[..] else { anyhow::bail!("not one line but {lines:#?}") };
    let stranger = id(stranger)?.short();
    for word in words.iter().copied().chain([stranger.as_str(), "10.77."]) {
        ensure!(line.contains(word), "no `{word}` in: {line}");
    }
    Ok(())
}

#[test]
fn a_foreign_certificate_gets_a_refusal_and_nothing_else() -> anyhow::Result<()> {
    let test = "a_foreign_certificate_gets_a_refusal_and_nothing_else";
    let Some((lab, [founder, cellar, shed])) = three(test)? else { return Ok(()) };
    let (founder, cellar, shed) = (lab.node(founder), lab.node(cellar), lab.node(shed));
    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    shed.found()?;
    // Its sub-grid claims our founder as a member, so its daemon dials ours.
    shed.kill_daemon()?;
    let claim = certify(&subgrid_key(shed)?, id(founder)?, "attic", 9000)?;
    Papers::of(shed)?.believe_in(&member(claim, "10.77.2.1:41610")?)?;
    up_talkative(shed)?;
    let ours = subgrid_key(founder)?.id().short();
    turned_away(founder, shed, &["`shed` is a member of sub-grid", &ours, "`phantom leave`"])?;
    ensure!(members(founder)? == 2, "nobody has come in");
    ensure!(members(shed)? == 2, "it knows what it made up, and nobody else");
    ensure!(row(founder, "cellar")?["reachable"] == true, "nothing has happened to the others");

    // What the line says does help.
    let left = shed.phantom(false, &["leave"])?;
    ensure!(left.code == 0, "{}", left.stderr);
    refused(&shed.phantom(false, &["nodes"])?, 1, "belongs to no sub-grid")?;
    let joined = join(shed, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    wait_until("shed among the members", SOON, || Ok(row(shed, "attic")?["reachable"] == true))
}

#[test]
fn an_expired_certificate_is_refused_until_the_node_joins_again() -> anyhow::Result<()> {
    let test = "an_expired_certificate_is_refused_until_the_node_joins_again";
    let Some((lab, [founder, cellar, _])) = three(test)? else { return Ok(()) };
    let (founder, cellar) = (lab.node(founder), lab.node(cellar));
    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    let node = id(cellar)?;
    cellar.kill_daemon()?;
    let over = certify(&subgrid_key(founder)?, node, "cellar", -100)?;
    Papers::of(cellar)?.show(&over)?;
    up_talkative(cellar)?;
    turned_away(founder, cellar, &["the certificate of `cellar` expired", "let it join again"])?;
    ensure!(row(founder, "cellar")?["reachable"] == false, "it is outside");

    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    ensure!(row(cellar, "cellar")?["node"] == node.to_string(), "it is the same node");
    wait_until(
        "cellar among the members",
        SOON,
        || Ok(row(founder, "cellar")?["reachable"] == true),
    )
}

#[test]
fn an_edited_certificate_is_worth_nothing() -> anyhow::Result<()> {
    let test = "an_edited_certificate_is_worth_nothing";
    let Some((lab, [founder, cellar, _])) = three(test)? else { return Ok(()) };
    let (founder, cellar) = (lab.node(founder), lab.node(cellar));
    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    cellar.kill_daemon()?;
    Papers::of(cellar)?.edit("cellar", "castle")?;
    // The daemon runs, for the apps that are at home there, and belongs to nobody.
    let words = "of `castle` is not signed by sub-grid";
    refused(&cellar.phantom(false, &["up"])?, 1, words)?;
    refused(&cellar.phantom(false, &["nodes"])?, 1, words)?;
    ensure!(cellar.phantom(true, &["ps"])?.code == 0, "apps are within reach");
    ensure!(row(founder, "cellar")?["reachable"] == false, "it is outside");
    ensure!(members(founder)? == 2, "and nobody new inside");

    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    wait_until(
        "cellar among the members",
        SOON,
        || Ok(row(founder, "cellar")?["reachable"] == true),
    )
}

#[test]
fn a_member_that_cannot_invite_says_who_can() -> anyhow::Result<()> {
    let test = "a_member_that_cannot_invite_says_who_can";
    let Some((lab, [founder, cellar, _])) = three(test)? else { return Ok(()) };
    let (founder, cellar) = (lab.node(founder), lab.node(cellar));
    refused(&cellar.phantom(false, &["invite"])?, 1, "`sudo phantom up`")?;
    let joined = join(cellar, &invite(founder, "1h")?)?;
    ensure!(joined.code == 0, "{}", joined.stderr);
    let words = "this node may not let others in: do it on attic";
    refused(&cellar.phantom(false, &["invite"])?, 1, words)?;
    // It still knows after a restart.
    cellar.restart_daemon()?;
    refused(&cellar.phantom(false, &["invite"])?, 1, words)
}

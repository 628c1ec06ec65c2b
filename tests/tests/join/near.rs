//! Nodes that find each other, ask to be let in, are accepted, denied and removed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use phantom_tests::lab::{Lab, LabNode, Node, Output, Person, SOON, wait_until};
use serde_json::{Value, json};

use crate::{members, refused, three};

/// `phantom up` on a node that belongs nowhere: the code it shows.
fn ask(node: &LabNode, args: &[&str]) -> anyhow::Result<String> {
    let asked: Value = node.phantom_json(false, &[&["up", "--no-wait"], args].concat())?;
    let code = asked["asked"]["code"].as_str();
    Ok(code.with_context(|| format!("it did not ask: {asked}"))?.to_owned())
}

fn up(node: &LabNode, args: &[&str]) -> anyhow::Result<Output> {
    node.phantom(false, &[&["up", "--no-wait"], args].concat())
}

/// Two nodes on one link, neither of which knows a sub-grid; the second with a stricter firewall.
fn two_strangers(test: &str) -> anyhow::Result<Option<(Lab, usize, usize)>> {
    let Some(mut lab) = Lab::open(test)? else { return Ok(None) };
    let attic = lab.add("attic", Person::at_home("ada", 1000))?;
    let bob = Person { name: "bob".into(), uid: 1500, has_home: false };
    let cellar = lab.add("cellar", bob)?;
    lab.link(attic, cellar, 1)?;
    Ok(Some((lab, attic, cellar)))
}

#[test]
fn two_machines_type_up_and_one_accepts() -> anyhow::Result<()> {
    let test = "two_machines_type_up_and_one_accepts";
    let Some((lab, attic, cellar)) = two_strangers(test)? else { return Ok(()) };
    let (attic, cellar) = (lab.node(attic), lab.node(cellar));
    let founded = attic.phantom(false, &["up"])?;
    ensure!(founded.code == 0, "{}", founded.stderr);
    ensure!(founded.stdout.contains("Nobody answered on the local network"), "{}", founded.stdout);
    let none = attic.phantom(true, &["requests"])?;
    ensure!(none.stdout.contains("Nobody asks"), "{}", none.stdout);

    let said = up(cellar, &[])?;
    ensure!(said.code == 0, "{}", said.stderr);
    let code = ask(cellar, &[])?;
    ensure!(said.stdout.contains(&format!("Code: {code}")), "the same request: {}", said.stdout);
    ensure!(said.stdout.contains("On attic"), "{}", said.stdout);
    let rows: Vec<Value> = attic.phantom_json(true, &["requests"])?;
    let row = json!([rows[0]["code"], rows[0]["name"]]);
    ensure!(rows.len() == 1 && row == json!([code, "cellar"]), "{rows:?}");

    // Only root lets others in, and only by the code.
    refused(&attic.phantom(true, &["accept", &code])?, 1, "only root may let others in")?;
    refused(&attic.phantom(false, &["accept", "cellar"])?, 2, "six digits")?;
    let accepted = attic.phantom(false, &["accept", &code])?;
    ensure!(
        accepted.code == 0 && accepted.stdout.contains("cellar is a member now"),
        "{accepted:?}"
    );
    attic.wait_for_nodes(2)?;
    cellar.wait_for_nodes(2)?;
    let again = up(cellar, &[])?;
    ensure!(again.stdout.contains("Member of the sub-grid"), "{}", again.stdout);
    refused(&cellar.phantom(false, &["requests"])?, 1, "look on attic")
}

#[test]
fn a_denied_machine_is_told_and_stays_outside() -> anyhow::Result<()> {
    let test = "a_denied_machine_is_told_and_stays_outside";
    let Some((lab, attic, cellar)) = two_strangers(test)? else { return Ok(()) };
    let (attic, cellar) = (lab.node(attic), lab.node(cellar));
    attic.found()?;
    let mut waiting = cellar.phantom_command(false, &["up"]);
    let waiting = waiting
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()?;
    let mut code = String::new();
    wait_until("the request", SOON, || {
        let rows: Vec<Value> = attic.phantom_json(true, &["requests"])?;
        code = rows.first().and_then(|row| row["code"].as_str()).unwrap_or_default().to_owned();
        Ok(!code.is_empty())
    })?;
    let denied = attic.phantom(false, &["deny", &code])?;
    ensure!(denied.code == 0, "{}", denied.stderr);
    let output = waiting.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1) && said.contains("was denied there"), "{said}");
    ensure!(String::from_utf8_lossy(&output.stdout).contains(&code), "it showed its code");
    ensure!(members(attic)? == 1, "nobody has come in");
    refused(&up(cellar, &[])?, 1, "was denied there")
}

#[test]
fn where_multicast_is_blocked_a_peer_is_named() -> anyhow::Result<()> {
    let test = "where_multicast_is_blocked_a_peer_is_named";
    let Some((lab, attic, cellar)) = two_strangers(test)? else { return Ok(()) };
    let (attic, cellar) = (lab.node(attic), lab.node(cellar));
    attic.found()?;
    let table = "add table ip block; add chain ip block out { type filter hook output priority 0; }; \
                 add rule ip block out ip daddr 224.0.0.0/4 drop";
    cellar.enter(&["nft", table])?;
    refused(&up(cellar, &["--peer", "10.77.1.77"])?, 1, "nobody answers at 10.77.1.77")?;
    refused(&up(cellar, &["--peer", "no.such.name.invalid"])?, 1, "no machine that can be found")?;
    let code = ask(cellar, &["--peer", "10.77.1.1"])?;
    ensure!(attic.phantom(false, &["accept", &code])?.code == 0, "accepted");
    // Datagrams between the two still pass.
    attic.wait_for_nodes(2)
}

#[test]
fn where_datagrams_are_blocked_members_gossip_over_their_connection() -> anyhow::Result<()> {
    let test = "where_datagrams_are_blocked_members_gossip_over_their_connection";
    let Some((lab, attic, cellar)) = two_strangers(test)? else { return Ok(()) };
    let (attic, cellar) = (lab.node(attic), lab.node(cellar));
    attic.found()?;
    attic.let_in(cellar)?;
    let table = "add table ip block; add chain ip block out { type filter hook output priority 0; }; \
                 add rule ip block out udp dport 41611 drop";
    cellar.enter(&["nft", table])?;
    cellar.restart_daemon()?;
    let lives = |of: &str| format!("node of {of} lives");
    wait_until(&lives("cellar"), SOON, || {
        let rows: Vec<Value> = attic.phantom_json(true, &["nodes"])?;
        Ok(rows.iter().any(|row| row["name"] == "cellar" && row["state"] == "up"))
    })?;
    // Also when more time has gone by than datagrams are trusted for, and than a lease lasts: the
    // other direction is open, and must not be taken for both.
    let over = Instant::now() + Duration::from_secs(13);
    wait_until("thirteen quiet seconds", SOON, || {
        let rows: Vec<Value> = attic.phantom_json(true, &["nodes"])?;
        ensure!(rows.iter().all(|row| row["state"] == "up"), "{rows:?}");
        Ok(Instant::now() > over)
    })?;
    for node in [attic, cellar] {
        let found = node
            .phantom(true, &["nodes", "--scope", "subgrid", "--where", "true", "--count", "2"])?;
        ensure!(
            found.code == 0 && found.stdout.contains("attic"),
            "{} {}",
            found.stdout,
            found.stderr
        );
        ensure!(found.stdout.contains("cellar"), "{}", found.stdout);
    }
    Ok(())
}

#[test]
fn of_two_sub_grids_on_one_network_the_user_says_which() -> anyhow::Result<()> {
    let test = "of_two_sub_grids_on_one_network_the_user_says_which";
    let Some(mut lab) = Lab::open(test)? else { return Ok(()) };
    let attic = lab.add("attic", Person::at_home("ada", 1000))?;
    let mut add = |name: &str, net| -> anyhow::Result<usize> {
        let node = lab.add(name, Person { name: "bob".into(), uid: 1500, has_home: false })?;
        lab.link(attic, node, net)?;
        Ok(node)
    };
    let (cellar, shed) = (add("cellar", 1)?, add("shed", 2)?);
    let [attic, cellar, shed] = [attic, cellar, shed].map(|node| lab.node(node));
    cellar.found()?;
    shed.found()?;
    let both = up(attic, &[])?;
    refused(&both, 2, "several sub-grids answer")?;
    for name in ["(cellar)", "(shed)", "--subgrid"] {
        ensure!(both.stderr.contains(name), "{}", both.stderr);
    }
    refused(&up(attic, &["--subgrid", "kitchen"])?, 1, "no sub-grid `kitchen` answers")?;
    // Asked at the wrong one first; what is asked then takes its place.
    ask(attic, &["--subgrid", "cellar"])?;
    let code = ask(attic, &["--subgrid", "shed"])?;
    ensure!(attic.phantom(false, &["leave"])?.code == 0, "it gives up asking");
    refused(&attic.phantom(true, &["nodes"])?, 1, "belongs to no sub-grid yet")?;
    let again = ask(attic, &["--subgrid", "shed"])?;
    ensure!(again != code, "another request: {again}");
    let code = again;
    ensure!(cellar.phantom_json::<Vec<Value>>(true, &["requests"])?.len() == 1, "the first one");
    ensure!(shed.phantom(false, &["accept", &code])?.code == 0, "accepted");
    shed.wait_for_nodes(2)
}

#[test]
fn a_removed_member_is_parted_from_by_all_within_seconds() -> anyhow::Result<()> {
    let test = "a_removed_member_is_parted_from_by_all_within_seconds";
    let Some((lab, [founder, cellar, shed])) = three(test)? else { return Ok(()) };
    let [founder, cellar, shed] = [founder, cellar, shed].map(|node| lab.node(node));
    founder.let_in(cellar)?;
    let code = ask(shed, &[])?;
    ensure!(founder.phantom(false, &["accept", &code])?.code == 0, "accepted");
    founder.wait_for_nodes(3)?;
    refused(&cellar.phantom(false, &["remove", "shed"])?, 1, "may not let others in")?;
    refused(&founder.phantom(false, &["remove", "attic"])?, 1, "`phantom leave`")?;
    refused(&founder.phantom(false, &["remove", "kitchen"])?, 2, "no node `kitchen`")?;

    let began = Instant::now();
    ensure!(founder.phantom(false, &["remove", "shed"])?.code == 0, "removed");
    wait_until("all know it", SOON, || Ok(members(founder)? == 2 && members(cellar)? == 2))?;
    wait_until("it knows it itself", SOON, || {
        let output = shed.phantom(true, &["nodes"])?;
        Ok(output.code == 1 && output.stderr.contains("was removed from the sub-grid"))
    })?;
    ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    // The right to do all this can be given, and taken back.
    ensure!(founder.phantom(false, &["delegate", "cellar"])?.code == 0, "delegated");
    wait_until("cellar may accept", SOON, || Ok(cellar.phantom(true, &["requests"])?.code == 0))?;
    // It has come in by the same door before, and asks again.
    let code = ask(shed, &[])?;
    ensure!(founder.phantom(false, &["accept", &code])?.code == 0, "accepted again");
    founder.wait_for_nodes(3)?;
    ensure!(cellar.phantom(false, &["remove", "shed"])?.code == 0, "a delegate removes");
    wait_until("all know it", SOON, || Ok(members(founder)? == 2))?;
    let taken = founder.phantom(false, &["delegate", "--withdraw", "cellar"])?;
    ensure!(taken.code == 0, "{}", taken.stderr);
    wait_until("cellar may not accept", SOON, || {
        Ok(cellar.phantom(true, &["requests"])?.code == 1)
    })?;
    ensure!(members(founder)? == 2, "what it did stands by the key's word");
    Ok(())
}

#[test]
fn a_daemon_that_was_stopped_for_ten_seconds_is_back_by_itself() -> anyhow::Result<()> {
    let test = "a_daemon_that_was_stopped_for_ten_seconds_is_back_by_itself";
    let Some((lab, attic, cellar)) = two_strangers(test)? else { return Ok(()) };
    let (attic, cellar) = (lab.node(attic), lab.node(cellar));
    attic.found()?;
    attic.let_in(cellar)?;
    let state = |wanted: &str| {
        let rows: Vec<Value> = attic.phantom_json(true, &["nodes"])?;
        Ok(rows.iter().any(|row| row["name"] == "cellar" && row["state"] == wanted))
    };
    wait_until("cellar is up", SOON, || state("up"))?;
    let pid = cellar.daemon_pid()?.to_string();
    let frozen = Instant::now();
    cellar.enter(&["kill", "-STOP", &pid])?;
    wait_until("cellar is away", SOON, || state("away"))?;
    wait_until("ten seconds", SOON, || Ok(frozen.elapsed() >= Duration::from_secs(10)))?;
    cellar.enter(&["kill", "-CONT", &pid])?;
    let woke = Instant::now();
    wait_until("cellar is back", SOON, || state("up"))?;
    ensure!(woke.elapsed() < Duration::from_secs(5), "{:?} after it woke", woke.elapsed());
    Ok(())
}

#[test]
fn junk_and_forged_announcements_change_nothing() -> anyhow::Result<()> {
    let test = "junk_and_forged_announcements_change_nothing";
    let Some((lab, [founder, cellar, shed])) = three(test)? else { return Ok(()) };
    let [founder, cellar, shed] = [founder, cellar, shed].map(|node| lab.node(node));
    founder.let_in(cellar)?;
    shed.found()?;
    // Another sub-grid's member pretends to be one of ours: its own certificate, our sub-grid's id.
    let ours = crate::papers::subgrid_key(founder)?.id();
    let key = phantom_net::NodeKey::ephemeral();
    let theirs = crate::papers::certify(&crate::papers::subgrid_key(shed)?, key.id(), "x", 9000)?;
    let forged = {
        let bytes = postcard::to_stdvec(&theirs)?;
        let at =
            bytes.windows(32).position(|id| id == theirs.terms().subgrid.0).context("no id")?;
        let mut bytes = bytes;
        bytes[at..at + 32].copy_from_slice(&ours.0);
        postcard::from_bytes(&bytes)?
    };
    let presence = phantom_discovery::wire::Presence {
        port: 41610,
        datagram_port: 41611,
        may_accept: true,
        echo: 0,
        at_ms: u64::MAX,
    };
    let note = phantom_net::member::Note::sign(&key, forged, presence.to_bytes());
    let mut script =
        String::from("import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n");
    let to = "('10.77.2.1',41611)";
    for datagram in [
        phantom_discovery::wire::presence(&note.to_bytes()),
        phantom_discovery::wire::presence(&[0xff; 700]),
        phantom_discovery::wire::sealed(&[7; 90]),
        vec![0; 1400],
        Vec::new(),
    ] {
        let hex: String = datagram.iter().map(|byte| format!("{byte:02x}")).collect();
        script += &format!("for _ in range(300): s.sendto(bytes.fromhex('{hex}'),{to})\n");
    }
    shed.enter(&["python3", "-c", &script])?;
    ensure!(members(founder)? == 2, "nobody has come in");
    founder.wait_for_nodes(2)?;
    let log = founder.daemon_log();
    ensure!(!log.contains("panicked"), "{log}");
    ensure!(log.len() < 100_000, "the log does not grow with what strangers send: {}", log.len());
    Ok(())
}

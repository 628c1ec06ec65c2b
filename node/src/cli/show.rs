//! Answers as people read them.

use phantom_model::{Bytes, Window};

use super::print_json;
use crate::api::types::*;

/// Prints rows under their headings, each column as wide as its widest cell.
pub(super) fn table<const N: usize>(headings: [&str; N], rows: &[[String; N]]) {
    table_of(&headings.map(str::to_owned), rows);
}

/// A table with as many columns as there are headings. One in which nothing stands is left out.
pub fn table_of(headings: &[String], rows: &[impl AsRef<[String]>]) {
    let mut widths: Vec<usize> = headings.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row.as_ref()) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (cell, width) in cells.iter().zip(&widths).filter(|(_, width)| **width > 0) {
            text.push_str(&format!("{cell:width$}  "));
        }
        println!("{}", text.trim_end());
    };
    line(headings);
    rows.iter().for_each(|row| line(row.as_ref()));
}

/// Reasons are cut to this many characters in tables.
const WIDEST_REASON: usize = 40;

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// `phantom invite`.
pub fn invite(reply: &InviteReply, ttl: Window, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    println!("On the other machine, within {ttl}, once:\n");
    println!("  sudo phantom up --join {}", reply.token);
    Ok(())
}

/// `phantom requests`.
pub fn requests(rows: &[RequestRow], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&rows);
    }
    if rows.is_empty() {
        println!("Nobody asks to be let in.");
        return Ok(());
    }
    let cells: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.code.clone(),
                row.name.clone(),
                row.node.short(),
                row.from.clone(),
                format!("{} s", row.waiting_s),
            ]
        })
        .collect();
    table(["CODE", "NAME", "ID", "FROM", "WAITS"], &cells);
    println!("\nIf the other machine shows the same code: sudo phantom accept {}", rows[0].code);
    Ok(())
}

/// What concerned one node is done.
pub fn done(reply: &AcceptReply, line: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    println!("{line}");
    Ok(())
}

/// `phantom nodes`.
pub fn nodes(rows: &[NodeRow], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&rows);
    }
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                format!("{}{}", row.name, if row.this { " *" } else { "" }),
                row.node.short(),
                match row.state {
                    NodeState::Up => "up",
                    NodeState::Silent => "silent",
                    NodeState::Away => "away",
                }
                .to_owned(),
                match row.role {
                    NodeRole::SuperPeer => "super-peer",
                    NodeRole::Voter => "voter",
                    NodeRole::Member => "",
                }
                .to_owned(),
                or_dash(row.cores),
                or_dash(row.load_centi.map(|load| format!("{:.2}", f64::from(load) / 100.0))),
                or_dash(row.memory_total.map(Bytes)),
                free(row),
                or_dash(row.mflops.map(|mflops| format!("{mflops} Mflop/s"))),
                or_dash(row.rtt_us.map(|us| format!("{:.1} ms", us as f64 / 1000.0))),
                row.path.clone(),
                row.lacks.join(", "),
            ]
        })
        .collect();
    table(
        [
            "NODE",
            "ID",
            "STATE",
            "ROLE",
            "CORES",
            "LOAD",
            "MEMORY",
            "FREE",
            "CORE SPEED",
            "RTT",
            "PATH",
            "CANNOT",
        ],
        &rows,
    );
    Ok(())
}

/// `phantom subgrid`.
pub fn subgrid(state: &SubgridState, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(state);
    }
    match (&state.super_peer, &state.mandate) {
        (Some(name), Some(mandate)) => {
            let this = if state.this { ", this node" } else { "" };
            println!("super-peer  {name}{this} (mandate {mandate})");
        }
        _ if state.generation == 0 => {
            println!("super-peer  none: this node has not heard yet who answers for the sub-grid");
        }
        _ => println!(
            "super-peer  none: too few of the electors are in reach; what runs goes on, and nothing \
             is decided until more are back"
        ),
    }
    if state.this && !state.decides {
        println!("decisions   none: it has not heard from a majority of the electors lately");
    }
    println!("electors    {}", state.electors.join(", "));
    println!("voters      {}", state.voters.join(", "));
    if let Some(members) = state.registry {
        let gathering = if state.gathering { "; the archive is still being gathered" } else { "" };
        println!("registry    {members} members{gathering}");
        match state.archive {
            Some((members, stored, enough)) => println!(
                "archive     of {members} members, {stored} shards on disks; any {enough} give it back"
            ),
            None => println!("archive     not yet"),
        }
    } else {
        let registered = if state.registered { "registered" } else { "not registered yet" };
        println!("this node   {registered}");
    }
    for (number, row) in state.follows.iter().enumerate() {
        let head = if number == 0 { "follows" } else { "" };
        println!("{head:<12}{}", followed(row, unix_now_s()));
    }
    Ok(())
}

/// One service that runs wherever the super-peer is.
fn followed(row: &FollowRow, now_s: u64) -> String {
    let ago = |at: u64| match now_s.saturating_sub(at) {
        s if s < 120 => format!("{s} s"),
        s if s < 7200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    };
    let mut line = match (&row.node, row.since_unix_s) {
        (Some(node), _) if row.stopping => format!("{} is being stopped on {node}", row.name),
        (Some(node), Some(since)) => format!("{} on {node}, for {}", row.name, ago(since)),
        _ => {
            let why = row.why.as_deref().unwrap_or("it is about to start");
            format!("{} does not run: {why}", row.name)
        }
    };
    match (&row.trouble, row.saved_bytes, row.saved_unix_s) {
        (Some(words), ..) => line += &format!("; its state is not saved: {words}"),
        (None, Some(bytes), Some(at)) => {
            line += &format!("; state of {} saved {} ago", Bytes(bytes), ago(at));
        }
        _ => {}
    }
    if let Some(exit) = &row.exit {
        line += &format!("; last end: {exit}");
    }
    line
}

fn unix_now_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs())
}

/// `phantom nodes --scope`.
pub fn found(reply: &FindReply, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    let rows: Vec<_> = reply
        .rows
        .iter()
        .map(|row| {
            let text = |name: &str| {
                let text = row.attributes.get(name).map_or("-", String::as_str);
                text.trim_matches('"').to_owned()
            };
            let mib = |name: &str| {
                let mib: Option<u64> = row.attributes.get(name).and_then(|it| it.parse().ok());
                or_dash(mib.map(|mib| Bytes(mib.saturating_mul(1 << 20))))
            };
            [
                row.name.clone(),
                row.node.short(),
                text("State"),
                text("Arch"),
                text("Cpus"),
                text("Idle"),
                mib("Memory"),
                mib("FreeMemory"),
                format!("{} Mflop/s", text("Mflops")),
            ]
        })
        .collect();
    if rows.is_empty() {
        println!("No node meets it.");
    } else {
        table(
            ["NODE", "ID", "STATE", "ARCH", "CORES", "IDLE", "MEMORY", "FREE", "CORE SPEED"],
            &rows,
        );
    }
    let millis = reply.micros as f64 / 1000.0;
    println!(
        "\nAnswered by {}, {} messages, {millis:.1} ms.",
        reply.route.join(", "),
        reply.messages
    );
    Ok(())
}

/// What share of a node's cores and memory is free.
fn free(row: &NodeRow) -> String {
    let share = |free: f64, all: f64| format!("{:.0}%", 100.0 * free / all.max(1.0));
    let (Some(idle), Some(cores)) = (row.idle_centicores, row.cores) else { return "-".to_owned() };
    let (Some(free), Some(memory)) = (row.memory_free, row.memory_total) else {
        return "-".to_owned();
    };
    let cpu = share(f64::from(idle) / 100.0, f64::from(cores));
    format!("{cpu} cpu, {} mem", share(free as f64, memory as f64))
}

/// `phantom ps`.
pub fn apps(rows: &[AppRow], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&rows);
    }
    // Most people need no virtual organisation, and no column of them.
    let vo = if rows.iter().any(|row| row.vo.is_some()) { "VO" } else { "" };
    let rows: Vec<_> = rows
        .iter()
        .map(|row| {
            [
                row.name.clone(),
                row.app.short(),
                row.user.clone(),
                match row.state {
                    AppState::Running => "running",
                    AppState::Moving => "moving",
                    AppState::Unreachable => "unreachable",
                }
                .to_owned(),
                row.host.clone(),
                match (row.movable, &row.obstacle) {
                    (Some(true), _) => "yes".to_owned(),
                    (Some(false), Some(obstacle)) => format!("no: {}", shortened(obstacle)),
                    (Some(false), None) => "no".to_owned(),
                    (None, _) => "-".to_owned(),
                },
                or_dash(row.cpu_percent.map(|percent| format!("{percent}%"))),
                or_dash(row.resident_bytes.map(Bytes)),
                if row.limits.is_empty() { "-".to_owned() } else { row.limits.clone() },
                if vo.is_empty() { String::new() } else { or_dash(row.vo.as_ref()) },
                row.command.clone(),
            ]
        })
        .collect();
    table(
        ["NAME", "ID", "USER", "STATE", "ON", "MOVABLE", "CPU", "MEMORY", "LIMITS", vo, "COMMAND"],
        &rows,
    );
    Ok(())
}

/// As much of a reason as a table has room for; `phantom explain` has all of it.
fn shortened(reason: &str) -> String {
    if reason.chars().count() <= WIDEST_REASON {
        return reason.to_owned();
    }
    reason.chars().take(WIDEST_REASON - 1).chain(['…']).collect()
}

/// `phantom explain`.
pub fn explain(reply: &ExplainReply, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    match (&reply.target, reply.movable) {
        (Some(target), true) => {
            println!("{} runs on {} and could move now, to {target}.", reply.name, reply.host);
        }
        (None, true) => println!(
            "{} runs on {} and could be moved, but no other node can take it.",
            reply.name, reply.host
        ),
        (_, false) => println!("{} runs on {} and cannot move now:", reply.name, reply.host),
    }
    for obstacle in &reply.obstacles {
        println!("  - {obstacle}");
    }
    if let Some(verdict) = &reply.verdict {
        println!("Last verdict: it {verdict}.");
    }
    if !reply.candidates.is_empty() {
        println!("Nodes:");
    }
    for row in &reply.candidates {
        let idle = f64::from(row.idle_centicores) / 100.0;
        match (&row.weight, &row.refused) {
            (Some(weight), _) => println!("  {}: {weight}, {idle:.1} cores idle", row.name),
            (None, Some(reason)) => println!("  {}: {reason}", row.name),
            (None, None) => {}
        }
    }
    for note in &reply.notes {
        println!("Note: {note}.");
    }
    Ok(())
}

/// `phantom log`.
pub fn timeline(rows: &[TimelineRow], json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(&rows);
    }
    let Some(first) = rows.first() else {
        println!("Nothing has happened to it yet.");
        return Ok(());
    };
    for row in rows {
        let after_s = row.at_unix_us.saturating_sub(first.at_unix_us) as f64 / 1e6;
        println!("{after_s:10.3} s  {:10}  {}", row.event, row.detail);
    }
    Ok(())
}

/// `phantom migrate`.
pub fn migrated(reply: &MigrateReply, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    println!(
        "{} moved from {} to {}: {} in {:.0} ms frozen.",
        reply.name,
        reply.from,
        reply.to,
        Bytes(reply.image_bytes),
        reply.frozen_ms
    );
    Ok(())
}

/// `phantom qos`.
pub fn qos(state: &QosState, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(state);
    }
    if state.on {
        println!("The monitor is on: {} programs in the kernel.", state.programs);
    } else {
        println!("The monitor is off: no program in the kernel. Moves by hand still work.");
    }
    if let Some([cpu, memory, disk]) = state.pressure {
        println!(
            "In the last 10 s programs here waited {cpu:.0}% of the time for a CPU, {memory:.0}% \
             for memory, {disk:.0}% for a disk."
        );
    }
    for line in &state.watched {
        println!("Watched: {line}.");
    }
    Ok(())
}

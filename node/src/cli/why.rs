//! `phantom why`.

use crate::api::types::{Diagnosis, WhyApp, WhyPart, WhyReply};

use super::{print_json, show};

/// So many ways that would help are shown.
const MOST_HELPS: usize = 4;

/// Shows why an app stays or goes, or why nodes match.
pub fn why(reply: &WhyReply, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    let found = &reply.diagnosis;
    match &reply.app {
        Some(app) => print!("{}", of_app(app, found)),
        None => {
            println!("{}", headline(found));
            show::table_of(
                &HEADINGS.map(str::to_owned),
                &found.parts.iter().map(row).collect::<Vec<_>>(),
            );
            print!("{}", unknown(found));
            print!("{}", help(found));
            match &reply.by {
                Some(by) => println!("As {by}, the super-peer, knows the nodes of the sub-grid."),
                None => println!("As this node knows the members: no super-peer answers now."),
            }
        }
    }
    Ok(())
}

const HEADINGS: [&str; 5] = ["TRUE", "FALSE", "UNDEFINED", "ERROR", "REQUIREMENT"];

fn row(part: &WhyPart) -> Vec<String> {
    let counts = [part.holds, part.fails, part.undefined, part.error];
    counts.iter().map(ToString::to_string).chain([part.asks.clone()]).collect()
}

fn headline(found: &Diagnosis) -> String {
    let of = match found.nodes {
        0 => return "There is no node to look at.".to_owned(),
        1 => "the one node".to_owned(),
        many => format!("{many} nodes"),
    };
    match found.matching {
        0 => format!("None of {of} matches."),
        1 => format!("1 of {of} matches: {}.", names(found, 1)),
        many => format!("{many} of {of} match: {}.", names(found, many)),
    }
}

/// The names that were told, and how many there are besides.
fn names(found: &Diagnosis, all: usize) -> String {
    let named = found.names.join(", ");
    match all.saturating_sub(found.names.len()) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

fn of_app(app: &WhyApp, found: &Diagnosis) -> String {
    let WhyApp { name, host, goes, decision, obstacles } = app;
    let mut text = match (goes, &obstacles[..]) {
        (Some(to), _) => format!("{name} runs on {host} and would go to {to}: {decision}.\n"),
        (None, []) => format!("{name} runs on {host} and stays there: {decision}.\n"),
        (None, _) => format!("{name} runs on {host} and cannot move now:\n"),
    };
    for obstacle in obstacles {
        text += &format!("  - {obstacle}\n");
    }
    text += &match (found.nodes, found.matching) {
        (0, _) => return text,
        (1, 0) => "The other node is no better for it.\n".to_owned(),
        (of, 0) => format!("None of {of} other nodes is better for it.\n"),
        (of, many) => format!("Better for it, of {of} others: {}.\n", names(found, many)),
    };
    let (kept, given): (Vec<_>, Vec<_>) =
        found.parts.iter().partition(|part| part.holds < found.nodes);
    for part in kept {
        text += &format!("  {} on {} of {}", part.asks, part.holds, found.nodes);
        text += &match &part.reasons[..] {
            [] => "\n".to_owned(),
            reasons => format!(":\n    not {}\n", reasons.join("\n    not ")),
        };
    }
    if !given.is_empty() {
        let given: Vec<_> = given.iter().map(|part| part.asks.as_str()).collect();
        text += &format!("  everywhere: {}\n", given.join(", "));
    }
    text + &help(found)
}

fn unknown(found: &Diagnosis) -> String {
    let line = |it: &crate::api::types::UnknownName| match &it.like {
        Some(like) => format!("No node says `{}`; `{like}` is alike.\n", it.name),
        None => format!("No node says `{}`.\n", it.name),
    };
    found.unknown.iter().map(line).collect()
}

/// What would make more nodes match.
fn help(found: &Diagnosis) -> String {
    let changes = found.parts.iter().filter_map(|part| {
        let instead = part.instead.as_ref().filter(|it| it.matching > found.matching)?;
        let (asks, count) = (&instead.asks, instead.matching);
        Some(format!("  `{asks}` instead of `{}`: {count} would match\n", part.asks))
    });
    let without = found.helps.iter().filter(|it| it.matching > found.matching).map(|it| {
        let parts = it.without.iter().map(|at| format!("`{}`", found.parts[*at].asks));
        let parts: Vec<_> = parts.collect();
        format!("  without {}: {} would match\n", parts.join(" and "), it.matching)
    });
    let lines: String = changes.chain(without).take(MOST_HELPS).collect();
    if lines.is_empty() { lines } else { format!("What would help:\n{lines}") }
}

#[cfg(test)]
mod tests;

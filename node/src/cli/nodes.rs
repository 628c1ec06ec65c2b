//! `phantom nodes`: the members, or the nodes that a query finds.

use crate::api::client::Client;
use crate::api::types::*;

use super::args::Nodes;
use super::{DEADLINE, print_json, quoted, show};

/// Lists members, or asks which nodes match; gives the exit code.
pub async fn nodes(client: &Client, args: Nodes, json: bool) -> anyhow::Result<u8> {
    let Some(scope) = args.scope else {
        let asked = [("where", &args.of_which), ("vo", &args.vo)];
        let asked = asked.iter().filter_map(|(key, text)| {
            text.as_deref().map(|text| format!("{key}={}", quoted(text)))
        });
        let path = format!("/v1/nodes?{}", asked.collect::<Vec<_>>().join("&"));
        show::nodes(&client.get::<Vec<NodeRow>>(&path).await?, json)?;
        return Ok(0);
    };
    let of_which = args.of_which.unwrap_or_else(|| "true".to_owned());
    let within_ms = args.within.map(|window| window.0.as_millis() as u64);
    // The daemon's own deadline comes first.
    let deadline = args.within.map_or(DEADLINE, |window| window.0.min(DEADLINE)) + DEADLINE / 4;
    if scope == Reach::Subgrid && args.count.is_none() && args.rank.is_none() {
        let within = within_ms.map(|ms| format!("&within_ms={ms}")).unwrap_or_default();
        let vo = args.vo.as_deref().map(|vo| format!("&vo={}", quoted(vo))).unwrap_or_default();
        let path = format!("/v1/find?where={}{within}{vo}", quoted(&of_which));
        show::found(&client.get_within::<FindReply>(&path, deadline).await?, json)?;
        return Ok(0);
    }
    let (count, rank, vo) = (args.count, args.rank, args.vo);
    let request = QueryRequest { of_which, scope, count, rank, within_ms, vo };
    let reply: QueryReply = client.post("/v1/query", &request, deadline).await?;
    matched(&reply, request.rank.is_some(), json)?;
    Ok(u8::from(reply.rows.is_empty()))
}

/// Attributes have a column each, so many at most.
const MAX_COLUMNS: usize = 8;

fn matched(reply: &QueryReply, is_ranked: bool, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    let mut columns: Vec<&str> = Vec::new();
    for name in reply.rows.iter().flat_map(|row| row.attributes.keys()) {
        if name != "Name" && !columns.contains(&name.as_str()) && columns.len() < MAX_COLUMNS {
            columns.push(name);
        }
    }
    columns.sort_unstable();
    let mut headings = vec!["NODE".to_owned(), "ID".to_owned(), "SUB-GRID".to_owned()];
    headings.extend(is_ranked.then(|| "RANK".to_owned()));
    headings.extend(columns.iter().map(|name| printable(name).to_ascii_uppercase()));
    let rows: Vec<Vec<String>> = reply
        .rows
        .iter()
        .map(|row| {
            let mut cells = vec![printable(&row.name), row.node.short(), row.subgrid.short()];
            cells.extend(is_ranked.then(|| row.rank.to_string()));
            cells.extend(columns.iter().map(|name| {
                let text = row.attributes.get(*name).map_or("-", String::as_str);
                printable(text.trim_matches('"'))
            }));
            cells
        })
        .collect();
    if rows.is_empty() {
        println!("No node meets it.");
    } else {
        show::table_of(&headings, &rows);
    }
    println!("\n{}", outcome(reply));
    Ok(())
}

/// How it ended and went, in one line.
fn outcome(reply: &QueryReply) -> String {
    let count = reply.rows.len();
    let nodes =
        if count == 1 { "1 node matches".to_owned() } else { format!("{count} nodes match") };
    let ended = match reply.outcome {
        QueryOutcome::Met => format!("{nodes}, as many as were asked for"),
        QueryOutcome::Short => format!("{nodes}; nobody else has what is needed"),
        QueryOutcome::Alone => format!(
            "{nodes}; the sub-grid belongs to no region, where others could be asked \
             (`phantom site register` puts it into one)"
        ),
        QueryOutcome::Late => format!("{nodes} so far; not everybody has answered in time"),
    };
    let hops = reply.route.iter();
    let route: Vec<_> =
        hops.map(|hop| format!("{} ({})", printable(&hop.node), printable(&hop.role))).collect();
    format!(
        "{ended}. {}: {} steps, {} messages, {:.1} ms.",
        route.join(", "),
        reply.steps,
        reply.messages,
        reply.micros as f64 / 1000.0
    )
}

/// What others say of themselves must not steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|one| if one.is_control() { '\u{fffd}' } else { one }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(outcome: QueryOutcome, names: &[&str]) -> QueryReply {
        let row = |name: &&str| MatchRow {
            node: phantom_model::NodeId([1; 32]),
            name: (*name).to_owned(),
            subgrid: phantom_model::SubgridId([2; 32]),
            rank: 0.0,
            attributes: Default::default(),
        };
        let hop = |node: &str, role: &str| HopRow { node: node.into(), role: role.into() };
        QueryReply {
            outcome,
            rows: names.iter().map(row).collect(),
            route: vec![hop("attic", "asker"), hop("cellar", "super-peer")],
            steps: 2,
            messages: 2,
            micros: 1540,
        }
    }

    #[test]
    fn how_a_query_ended_is_one_line() {
        let met = outcome(&reply(QueryOutcome::Met, &["a"]));
        assert_eq!(
            met,
            "1 node matches, as many as were asked for. attic (asker), cellar (super-peer): \
             2 steps, 2 messages, 1.5 ms."
        );
        let late = outcome(&reply(QueryOutcome::Late, &["a", "b", "c"]));
        assert!(late.starts_with("3 nodes match so far; not everybody has answered in time."));
        let alone = outcome(&reply(QueryOutcome::Alone, &[]));
        assert!(alone.contains("0 nodes match; the sub-grid belongs to no region"), "{alone}");
        assert!(alone.contains("`phantom site register`"));
    }

    #[test]
    fn nobody_elsewhere_steers_the_terminal() {
        let mut evil = reply(QueryOutcome::Met, &["a"]);
        evil.route[1].node = "x\u{1b}[2J\n".to_owned();
        assert!(!outcome(&evil).chars().any(char::is_control));
    }
}

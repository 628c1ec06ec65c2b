//! `phantom region …` and `phantom site …`.

use std::time::Duration;

use super::args::{Region, Site};
use super::{print_json, show};
use crate::api::client::Client;
use crate::api::region::{RegionReply, RegionRequest, RegionState, SiteRow};

/// Looking in the DNS, asking, and having it kept may take its time.
const DEADLINE: Duration = Duration::from_secs(90);

/// Does what was asked.
pub async fn region(client: &Client, what: Region, json: bool) -> anyhow::Result<()> {
    let (path, request, hint) = match what {
        Region::List => {
            let state: RegionState = client.get("/v1/region").await?;
            return list(&state, json);
        }
        Region::Init { uri, name } => {
            let request = RegionRequest { uri: Some(uri), name, ..Default::default() };
            ("init", request, Some("Whoever registers compares its key with"))
        }
        Region::Approve { site } => {
            ("admit", RegionRequest { name: Some(site), ..Default::default() }, None)
        }
        Region::Remove { site } => {
            let request = RegionRequest { name: Some(site), withdraw: true, ..Default::default() };
            ("admit", request, None)
        }
        Region::Peer { uri, withdraw } => {
            let request = RegionRequest { uri: Some(uri), withdraw, ..Default::default() };
            ("peer", request, (!withdraw).then_some("Compare its key with its admin:"))
        }
        Region::Rotate => ("rotate", RegionRequest::default(), Some("Its key is now")),
    };
    let path = format!("/v1/region/{path}");
    let reply: RegionReply = client.post(&path, &request, DEADLINE).await?;
    tell(&reply, hint, json)
}

/// Does what was asked.
pub async fn site(client: &Client, what: Site, json: bool) -> anyhow::Result<()> {
    match what {
        Site::Register { mut uris, name } => {
            let others = uris.split_off(1);
            let request = RegionRequest { uri: uris.pop(), others, name, withdraw: false };
            let reply: RegionReply = client.post("/v1/site/register", &request, DEADLINE).await?;
            tell(
                &reply,
                Some(
                    "Compare its key with its admin, who lets this sub-grid in by `sudo \
                               phantom region approve`:",
                ),
                json,
            )
        }
        Site::Remove { uri } => {
            let request = RegionRequest { uri: Some(uri), ..Default::default() };
            tell(&client.post("/v1/site/remove", &request, DEADLINE).await?, None, json)
        }
    }
}

fn tell(reply: &RegionReply, hint: Option<&str>, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(reply);
    }
    println!("{}", reply.line);
    if let Some(hint) = hint {
        println!("{hint}\n\n    {}\n", groups(&reply.key));
    }
    Ok(())
}

/// In groups, to be read aloud.
fn groups(key: &str) -> String {
    let groups: Vec<&str> =
        (0..key.len()).step_by(8).filter_map(|at| key.get(at..(at + 8).min(key.len()))).collect();
    groups.join(" ")
}

fn list(state: &RegionState, json: bool) -> anyhow::Result<()> {
    if json {
        return print_json(state);
    }
    println!("{}", headline(state));
    println!("    {}\n", groups(&state.key));
    let headings = ["SITE", "STATE", "ROLE", "NODES", "CORES", "IDLE", "GFLOP/S", "MEMORY", "FREE"];
    let rows: Vec<Vec<String>> = state.sites.iter().map(row).collect();
    if !rows.is_empty() {
        show::table_of(&headings.map(str::to_owned), &rows);
    }
    for asking in &state.asking {
        let (name, id) = (&asking.name, asking.subgrid.short());
        match asking.leaves {
            false => println!(
                "\n{name} (sub-grid {id}) asks to be let in: sudo phantom region approve {name}"
            ),
            true => println!("\n{name} (sub-grid {id}) leaves: sudo phantom region remove {name}"),
        }
    }
    for (uri, up) in &state.peers {
        println!("\n{uri} is asked as well{}", if *up { "." } else { "; it is not heard now." });
    }
    if !state.zone.is_empty() {
        println!("\nEntry in the DNS: {}.", state.zone);
    }
    if state.region_peer.is_none() && !state.found.is_empty() {
        println!("\nLooking for its region-peer: {}.", state.found);
    }
    Ok(())
}

fn headline(state: &RegionState) -> String {
    let uri = &state.uri;
    let standing = match state.membership.as_str() {
        "site" => match (&state.region_peer, &state.mandate) {
            (Some(node), Some(mandate)) => {
                format!("{uri}: {node} answers for it, with mandate {mandate}.")
            }
            _ => format!("{uri}: nobody answers for it now."),
        },
        "asks" => format!("{uri}: this sub-grid has asked to be let in."),
        _ => format!("{uri}: this sub-grid was put out."),
    };
    let holds = if state.holds_key { " This machine holds its key:" } else { " Its key:" };
    format!("{standing}{holds}")
}

fn row(site: &SiteRow) -> Vec<String> {
    let number = |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |it| it.to_string());
    let gib = |mib: u64| format!("{:.1} GiB", mib as f64 / 1024.0);
    let cores = |centicores: u64| format!("{:.1}", centicores as f64 / 100.0);
    let dash = || "-".to_owned();
    vec![
        if site.this { format!("{} (this)", site.name) } else { site.name.clone() },
        if site.up { "up" } else { "silent" }.to_owned(),
        if site.region_peer { "region-peer" } else { "site" }.to_owned(),
        number(site.nodes.map(u64::from)),
        number(site.cores),
        site.idle_centicores.map_or_else(dash, cores),
        site.peak_mflops.map_or_else(dash, |(peak, _)| format!("{:.1}", peak as f64 / 1000.0)),
        site.memory_mib.map_or_else(dash, |(all, _)| gib(all)),
        site.memory_mib.map_or_else(dash, |(_, free)| gib(free)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_aloud_in_groups() {
        assert_eq!(groups("0123456789abcdef"), "01234567 89abcdef");
        assert_eq!(groups("012345678"), "01234567 8");
    }
}

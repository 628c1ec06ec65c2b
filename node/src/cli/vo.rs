//! `phantom vo create|add|remove|dissolve|list`.

use super::args::Vo;
use super::{DEADLINE, print_json, quoted, show};
use crate::api::client::Client;
use crate::api::types::{VoAction, VoRequest, VoRow};

/// So much of the members goes into a line of the listing, in characters.
const WIDEST_MEMBERS: usize = 60;

/// Does what was asked.
pub async fn run(client: &Client, what: Vo, json: bool) -> anyhow::Result<()> {
    let (what, name, members) = match what {
        Vo::List { name } => return list(client, name.as_deref(), json).await,
        Vo::Create(args) => (VoAction::Create, args.name, args.members),
        Vo::Add(args) => (VoAction::Add, args.name, args.members),
        Vo::Remove(args) => (VoAction::Remove, args.name, args.members),
        Vo::Dissolve { name } => (VoAction::Dissolve, name, Vec::new()),
    };
    let request = VoRequest { name, what, members };
    let row: Option<VoRow> = client.post("/v1/vos", &request, DEADLINE).await?;
    if json {
        return print_json(&row);
    }
    match row {
        Some(row) => tell(&row),
        None => println!("{} is dissolved: apps under it go home.", request.name),
    }
    Ok(())
}

async fn list(client: &Client, name: Option<&str>, json: bool) -> anyhow::Result<()> {
    let path = name.map_or("/v1/vos".to_owned(), |name| format!("/v1/vos?name={}", quoted(name)));
    let rows: Vec<VoRow> = client.get(&path).await?;
    if json {
        return print_json(&rows);
    }
    match (&rows[..], name) {
        ([], _) => println!(
            "No virtual organisation yet: `sudo phantom vo create NAME` on a node that may let \
             others in."
        ),
        ([row], Some(_)) => tell(row),
        _ => {
            let cells = |row: &VoRow| {
                [
                    row.name.clone(),
                    row.owner.short(),
                    if row.this { "yes" } else { "no" }.to_owned(),
                    row.nodes.len().to_string(),
                    shortened(&row.members.join(", ")),
                ]
            };
            let rows: Vec<_> = rows.iter().map(cells).collect();
            show::table(["NAME", "OWNER", "THIS NODE", "NODES", "MEMBERS"], &rows);
        }
    }
    Ok(())
}

fn tell(row: &VoRow) {
    let names = |names: &[String]| match names {
        [] => "nobody".to_owned(),
        names => names.join(", "),
    };
    println!("{} ({}), version {}", row.name, row.full_name, row.version);
    println!("members     {}", names(&row.members));
    println!("nodes here  {}", names(&row.nodes));
}

fn shortened(members: &str) -> String {
    if members.chars().count() <= WIDEST_MEMBERS {
        return members.to_owned();
    }
    members.chars().take(WIDEST_MEMBERS - 1).chain(['…']).collect()
}

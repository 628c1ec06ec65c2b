//! `phantom run` and `phantom attach`.

use std::path::Path;

use anyhow::{Context, bail};
use phantom_capsule::attach::client::{self, Parted};
use phantom_model::app::OsText;
use tokio::net::UnixStream;

use super::{DEADLINE, args, print_json};
use crate::api::client::Client;
use crate::api::types::{AppRow, RunReply, RunRequest};

/// Starts a command and serves its terminal.
pub async fn run(client: &Client, args: args::Run, json: bool) -> anyhow::Result<u8> {
    let env = std::env::vars_os().map(|(name, value)| {
        let mut line = OsText::from(name);
        line.0.push(b'=');
        line.0.extend(OsText::from(value).0);
        line
    });
    let request = RunRequest {
        name: args.name,
        argv: args.command.iter().map(OsText::from).collect(),
        env: env.collect(),
        cwd: std::env::current_dir().context("the working directory is gone")?.into(),
        limits: args.limit,
        term_size: client::window_size().unwrap_or_default(),
        vo: args.vo,
    };
    let reply: RunReply = client.post("/v1/apps", &request, DEADLINE).await?;
    for note in &reply.notes {
        eprintln!("phantom: {note}");
    }
    if args.detach {
        // Attached and gone: its output waits for nobody.
        drop(UnixStream::connect(&reply.attach).await);
        if json {
            print_json(&reply)?;
        } else {
            println!("{} runs; `phantom attach {}` brings it here.", reply.name, reply.name);
        }
        return Ok(0);
    }
    serve(&reply.name, &reply.attach).await
}

/// Brings a running app to this terminal.
pub async fn attach(row: &AppRow) -> anyhow::Result<u8> {
    let socket = row.attach.as_deref();
    serve(&row.name, socket.context("its home is another machine; attach there")?).await
}

async fn serve(name: &str, socket: &Path) -> anyhow::Result<u8> {
    let stream = UnixStream::connect(socket)
        .await
        .with_context(|| format!("cannot attach to {name}; has it ended?"))?;
    match client::attach(stream).await? {
        Parted::Exit(code) => Ok(u8::try_from(code).unwrap_or(255)),
        Parted::Detached => {
            println!("\r\nDetached; {name} runs on. `phantom attach {name}` brings it back.");
            Ok(0)
        }
        Parted::Lost => bail!("the process that held {name} is gone; see the daemon's log"),
    }
}

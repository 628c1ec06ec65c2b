//! `phantom up` and `phantom down`: the daemon's life from the command line.

use std::fs::OpenOptions;
use std::io::{BufRead, BufReader};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::args::Up;
use super::{DEADLINE, print_json};
use crate::api::client::Client;
use crate::api::types::{AskedRow, QosState, UpReply, UpRequest};
use crate::config::Config;

/// Starts the daemon unless one answers, and takes part in a sub-grid.
pub async fn up(
    client: &Client,
    config: &Config,
    config_file: Option<&Path>,
    args: Up,
    json: bool,
) -> anyhow::Result<()> {
    // Asked, not only connected to: a daemon that is just dying still takes connections.
    if client.get::<QosState>("/v1/qos").await.is_err() {
        start_daemon(config, config_file)?;
    }
    let Up { join, peer: peers, subgrid, new, no_wait } = args;
    let request = UpRequest { join, new, peers, subgrid };
    let mut reply: UpReply = client.post("/v1/up", &request, DEADLINE).await?;
    if let Some(asked) = reply.asked.clone() {
        if no_wait {
            if json {
                return print_json(&reply);
            }
            print!("{}", question(&asked));
            return Ok(());
        }
        if json {
            // One document says what to compare, the other how it ended.
            print_json(&reply)?;
        } else {
            print!("{}", question(&asked));
            println!("\nWaiting. (Ctrl-C ends only the waiting: the request stands for an hour.)");
        }
        while reply.asked.is_some() {
            reply = client.get("/v1/up").await?;
        }
    }
    if json {
        return print_json(&reply);
    }
    println!("{}", reply.line);
    println!(
        "node {} ({}), {} in the sub-grid",
        reply.name,
        reply.node.short(),
        match reply.members {
            1 => "alone".to_owned(),
            n => format!("{n} members"),
        }
    );
    Ok(())
}

/// What a person at the other machine has to do.
fn question(asked: &AskedRow) -> String {
    let AskedRow { code, of, subgrid } = asked;
    format!(
        "Found the sub-grid {subgrid} and asked {of} to let this machine in.\n\n    \
         Code: {code}\n\nOn {of}, if it shows the same code: sudo phantom accept {code}\n"
    )
}

/// Starts the daemon in the background and waits until it answers or says why not.
fn start_daemon(config: &Config, config_file: Option<&Path>) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("no daemon is running and starting it needs root; run `sudo phantom up`");
    }
    std::fs::create_dir_all(&config.state_dir)
        .with_context(|| format!("cannot make {}", config.state_dir.display()))?;
    let log_file = config.log_file();
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(&log_file)
        .with_context(|| format!("cannot open the log {}", log_file.display()))?;
    let (ready, ready_writer) = nix::unistd::pipe().context("cannot make a pipe")?;
    let mut command = Command::new(std::env::current_exe()?);
    if let Some(file) = config_file {
        // The daemon's own folder is another.
        command.arg("--config").arg(std::path::absolute(file)?);
    }
    command
        .args(["daemon", "--ready-fd", &ready_writer.as_raw_fd().to_string()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .current_dir("/")
        .process_group(0);
    let child = command.spawn().context("cannot start the daemon")?;
    drop(ready_writer);
    let mut line = String::new();
    // The daemon closes the pipe when it ends, so this wait ends with it.
    BufReader::new(std::fs::File::from(ready)).read_line(&mut line)?;
    if line.trim() != "ready" {
        let last = std::fs::read_to_string(&log_file)
            .ok()
            .and_then(|log| log.lines().last().map(str::to_owned))
            .unwrap_or_default();
        bail!(
            "the daemon (process {}) did not start: {last}; see {}",
            child.id(),
            log_file.display()
        );
    }
    Ok(())
}

/// Stops the daemon and waits until it is gone.
pub async fn down(client: &Client, config: &Config) -> anyhow::Result<()> {
    client.post::<_, ()>("/v1/down", &(), DEADLINE).await?;
    let end = Instant::now() + Duration::from_secs(20);
    while config.pid_file().exists() {
        if Instant::now() > end {
            bail!("the daemon has not stopped within 20 s; see {}", config.log_file().display());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    println!("The daemon has stopped. Running apps keep running; `phantom up` finds them again.");
    Ok(())
}

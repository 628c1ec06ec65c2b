//! The command line: parse, ask the daemon, show the answer.

mod args;
mod nodes;
mod policy;
mod region;
mod run;
mod show;
mod up;
mod vo;
mod why;

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use nix::sys::signal::Signal;

use crate::api::client::{Client, Refused};
use crate::api::types::*;
use crate::config::Config;
use args::{Cli, Command};

/// How long a move may take before the command line stops waiting for it.
const MOVE_DEADLINE: Duration = Duration::from_secs(3600);
/// How long everything else may take.
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the command line and gives the process's exit code.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    match dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("phantom: {error:#}");
            ExitCode::from(error.downcast_ref::<Refused>().map_or(1, |refused| refused.exit_code))
        }
    }
}

/// Says in one line what was wrong with the command line; help and version are printed whole.
fn misused(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        error.exit();
    }
    eprintln!("phantom: {}", one_line(&error.to_string()));
    ExitCode::from(2)
}

/// The first paragraph of what clap says, without its `error: `.
fn one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).take_while(|line| !line.is_empty());
    let said = lines.collect::<Vec<_>>().join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let config = Config::load(cli.config.as_deref())?;
    match cli.command {
        Command::Daemon(args) => {
            log_to_stderr();
            crate::daemon::main(config, args.ready_fd).map(|()| 0)
        }
        Command::Shim(args) => {
            log_to_stderr();
            crate::shim::main(&args.dir).map(|()| 0)
        }
        Command::ServeFiles(args) => {
            log_to_stderr();
            crate::shim::files::main(args.app).map(|()| 0)
        }
        Command::ReadAhead(args) => {
            log_to_stderr();
            crate::shim::warm::main(&args.root).map(|()| 0)
        }
        Command::Guard(args) => {
            log_to_stderr();
            crate::guard::main(&args.dir).map(|()| 0)
        }
        Command::Doctor => doctor(&config, cli.json),
        command => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(ask(command, &config, cli.config.as_deref(), cli.json)),
    }
}

fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PHANTOM_LOG")
        .unwrap_or_else(|_| "info,iroh=warn,noq=warn,tracing::span=off".into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
}

async fn ask(
    command: Command,
    config: &Config,
    config_file: Option<&std::path::Path>,
    json: bool,
) -> anyhow::Result<u8> {
    let client = Client::new(&config.api_socket());
    match command {
        Command::Up(args) => up::up(&client, config, config_file, args, json).await?,
        Command::Down => up::down(&client, config).await?,
        Command::Invite(args) => {
            let request = InviteRequest { ttl_s: args.ttl.0.as_secs().max(1) };
            let reply: InviteReply = client.post("/v1/invite", &request, DEADLINE).await?;
            show::invite(&reply, args.ttl, json)?;
        }
        Command::Requests => {
            show::requests(&client.get::<Vec<RequestRow>>("/v1/requests").await?, json)?;
        }
        Command::Accept(args) => {
            let request = CodeRequest { code: args.code.concat() };
            let reply: AcceptReply = client.post("/v1/requests/accept", &request, DEADLINE).await?;
            show::done(&reply, &format!("{} is a member now.", reply.name), json)?;
        }
        Command::Deny(args) => {
            let request = CodeRequest { code: args.code.concat() };
            let reply: AcceptReply = client.post("/v1/requests/deny", &request, DEADLINE).await?;
            show::done(&reply, &format!("{} is told that it may not come in.", reply.name), json)?;
        }
        Command::Remove(args) => {
            let path = format!("/v1/nodes/{}/remove", quoted(&args.node));
            let reply: AcceptReply = client.post(&path, &(), DEADLINE).await?;
            let line = format!("{} is no member any more; all others part from it.", reply.name);
            show::done(&reply, &line, json)?;
        }
        Command::Delegate(args) => {
            let request = DelegateRequest { node: args.node, withdraw: args.withdraw };
            let reply: AcceptReply = client.post("/v1/delegates", &request, DEADLINE).await?;
            let line = match args.withdraw {
                false => format!("{} may let others in and remove them now.", reply.name),
                true => format!("{} may not let others in any more.", reply.name),
            };
            show::done(&reply, &line, json)?;
        }
        Command::Policy(what) => policy::run(&client, what, json).await?,
        Command::Vo(what) => vo::run(&client, what, json).await?,
        Command::Leave => client.post::<_, ()>("/v1/leave", &(), DEADLINE).await?,
        Command::Subgrid => {
            show::subgrid(&client.get::<SubgridState>("/v1/subgrid").await?, json)?;
        }
        Command::Region(what) => region::region(&client, what, json).await?,
        Command::Site(what) => region::site(&client, what, json).await?,
        Command::Nodes(args) => return nodes::nodes(&client, args, json).await,
        Command::Ps => show::apps(&client.get::<Vec<AppRow>>("/v1/apps").await?, json)?,
        Command::Explain(args) => {
            show::explain(&client.get(&app_path(&args.app, "/explain")).await?, json)?;
        }
        Command::Why(args) => {
            let reply = client.post("/v1/why", &WhyRequest { of: args.of }, DEADLINE).await?;
            why::why(&reply, json)?;
        }
        Command::Log(args) => {
            show::timeline(&client.get::<Vec<_>>(&app_path(&args.app, "/log")).await?, json)?;
        }
        Command::Migrate(args) => {
            let path = app_path(&args.app, "/migrate");
            let request = MigrateRequest { node: args.node };
            show::migrated(&client.post(&path, &request, MOVE_DEADLINE).await?, json)?;
        }
        Command::Kill(args) => {
            let request = KillRequest { signal: Some(signal_number(&args.signal)?) };
            client.post::<_, ()>(&app_path(&args.app, "/kill"), &request, DEADLINE).await?;
        }
        Command::Qos(args) => {
            let state: QosState = match args.state {
                Some(state) => client.post("/v1/qos", &(state == "on"), DEADLINE).await?,
                None => client.get("/v1/qos").await?,
            };
            show::qos(&state, json)?;
        }
        Command::Run(args) => return run::run(&client, args, json).await,
        Command::Attach(args) => {
            let row: AppRow = client.get(&app_path(&args.app, "")).await?;
            return run::attach(&row).await;
        }
        Command::Doctor
        | Command::Daemon(_)
        | Command::Shim(_)
        | Command::Guard(_)
        | Command::ServeFiles(_)
        | Command::ReadAhead(_) => unreachable!("handled without the daemon"),
    }
    Ok(0)
}

/// The API path of an app, whatever its user called it.
fn app_path(app: &str, rest: &str) -> String {
    format!("/v1/apps/{}{rest}", quoted(app))
}

/// A text as one part of a path.
fn quoted(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

fn signal_number(text: &str) -> anyhow::Result<i32> {
    let wrong = || Refused {
        line: format!("`{text}` is not a signal; write it like `TERM`, `KILL` or `15`"),
        exit_code: 2,
    };
    if let Ok(number) = text.parse::<i32>() {
        return Ok(Signal::try_from(number).map_err(|_| wrong())? as i32);
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    Ok(Signal::from_str(&name).map_err(|_| wrong())? as i32)
}

fn doctor(config: &Config, json: bool) -> anyhow::Result<u8> {
    let report = crate::daemon::facts::examine(config, crate::doctor::DEADLINE);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        use std::io::IsTerminal;
        print!("{}", report.to_text(std::io::stdout().is_terminal()));
    }
    Ok(0)
}

/// Prints one JSON document.
fn print_json<T: serde::Serialize>(value: &T) -> anyhow::Result<()> {
    println!("{}", serde_json::to_string_pretty(value).context("cannot write JSON")?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        assert_eq!(signal_number("term").unwrap(), 15);
        assert_eq!(signal_number("SIGKILL").unwrap(), 9);
        assert_eq!(signal_number("2").unwrap(), 2);
        let error = signal_number("999").unwrap_err();
        assert_eq!(error.downcast_ref::<Refused>().unwrap().exit_code, 2);
    }

    #[test]
    fn wrong_use_is_told_in_one_line() {
        let said = |args: &[&str]| one_line(&Cli::try_parse_from(args).unwrap_err().to_string());
        let wrong = said(&["phantom", "run", "--limit", "cpu=15x", "--", "true"]);
        assert!(wrong.contains("`15x` is not a share of a core"), "{wrong}");
        let missing = said(&["phantom", "run"]);
        assert!(missing.ends_with("not provided: <CMD>..."), "{missing}");
        assert!(!missing.starts_with("error") && !missing.contains('\n'), "{missing}");
    }

    #[test]
    fn an_app_name_cannot_leave_its_place_in_the_path() {
        assert_eq!(app_path("../x y", "/log"), "/v1/apps/%2E%2E%2Fx%20y/log");
    }
}

//! `cargo xtask soak NAME`: runs one soak and prints what it found.
//!
//! Exit code: 0 held, 1 did not hold, 2 wrong use.

use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use phantom_tests::bench::{Format, Report};
use phantom_tests::soak::{self, Soak};

/// What to do.
enum Task {
    List,
    Run(&'static Soak, u32),
}

fn main() -> ExitCode {
    match parse(Parser::from_env()) {
        Ok(Task::List) => {
            for soak in soak::ALL {
                println!("{:<12} {} (x {})", soak.name, soak.about, soak.rounds);
            }
            ExitCode::SUCCESS
        }
        Ok(Task::Run(soak, rounds)) => run(soak, rounds),
        Err(error) => {
            eprintln!("soak: {error}\nUsage: cargo xtask soak NAME [--rounds N] | --list");
            ExitCode::from(2)
        }
    }
}

fn parse(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let (mut chosen, mut rounds) = (None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("list") => return Ok(Task::List),
            Arg::Long("rounds") => rounds = Some(parser.value()?.parse()?),
            Arg::Value(name) if chosen.is_none() => {
                let name = name.string()?;
                let unknown = || format!("no soak {name:?}; --list names them");
                chosen = Some(soak::find(&name).ok_or_else(unknown)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    let chosen = chosen.ok_or("a NAME is missing; --list names them")?;
    Ok(Task::Run(chosen, rounds.unwrap_or(chosen.rounds).max(1)))
}

fn run(soak: &Soak, rounds: u32) -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("soak: needs root; `cargo xtask soak {}` gets it", soak.name);
        return ExitCode::FAILURE;
    }
    let mut report = Report::new(Format::Table);
    let held = (soak.run)(rounds, &mut report);
    let good = report.finish();
    if let Err(error) = &held {
        // With the figures: it is part of what is kept.
        println!("failed: {error:#}");
    }
    match held.is_ok() && good {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

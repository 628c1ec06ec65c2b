//! `cargo xtask bench NAME`: runs one benchmark and prints its rows.
//!
//! Exit code: 0 measured and every gate holds, 1 failed or a gate is missed, 2 wrong use.

use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use phantom_tests::bench::{self, Bench, Format, Report};

/// What to do.
enum Task {
    List,
    Run(&'static Bench, Format),
}

fn main() -> ExitCode {
    match parse(Parser::from_env()) {
        Ok(Task::List) => {
            for bench in bench::ALL {
                println!("{:<12} {}", bench.name, bench.about);
            }
            ExitCode::SUCCESS
        }
        Ok(Task::Run(bench, format)) => run(bench, format),
        Err(error) => {
            eprintln!("bench: {error}\nUsage: cargo xtask bench NAME [--json] | --list");
            ExitCode::from(2)
        }
    }
}

fn parse(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let (mut chosen, mut format) = (None, Format::Table);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("list") => return Ok(Task::List),
            Arg::Long("json") => format = Format::Json,
            Arg::Value(name) if chosen.is_none() => {
                let name = name.string()?;
                let unknown = || format!("no benchmark {name:?}; --list names them");
                chosen = Some(bench::find(&name).ok_or_else(unknown)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Run(chosen.ok_or("a NAME is missing; --list names them")?, format))
}

fn run(bench: &Bench, format: Format) -> ExitCode {
    let mut report = Report::new(format);
    let measured = (bench.run)(&mut report);
    let good = report.finish();
    match measured {
        Ok(()) if good => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench {}: {error:#}", bench.name);
            ExitCode::FAILURE
        }
    }
}

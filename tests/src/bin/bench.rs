//! `cargo xtask bench NAME`: runs one benchmark and prints its rows.
//!
//! Exit code: 0 measured and every gate holds, 1 failed or a gate is missed, 2 wrong use.

use std::process::ExitCode;

use lexopt::{Arg, Parser, ValueExt};
use phantom_tests::bench::{self, Bench, Format, Options, Report};

/// What to do.
enum Task {
    List,
    Run(&'static Bench, Format, Options),
}

fn main() -> ExitCode {
    match parse(Parser::from_env()) {
        Ok(Task::List) => {
            for bench in bench::ALL {
                println!("{:<12} {}", bench.name, bench.about);
            }
            ExitCode::SUCCESS
        }
        Ok(Task::Run(bench, format, options)) => run(bench, format, options),
        Err(error) => {
            eprintln!(
                "bench: {error}\nUsage: cargo xtask bench NAME [--json] | broker [--data DIR | \
                 --figures] | --list"
            );
            ExitCode::from(2)
        }
    }
}

fn parse(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let (mut chosen, mut format, mut options) = (None, Format::Table, Options::default());
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("list") => return Ok(Task::List),
            Arg::Long("json") => format = Format::Json,
            Arg::Long("data") => options.data = Some(parser.value()?.into()),
            Arg::Long("figures") => options.figures = true,
            Arg::Value(name) if chosen.is_none() => {
                let name = name.string()?;
                let unknown = || format!("no benchmark {name:?}; --list names them");
                chosen = Some(bench::find(&name).ok_or_else(unknown)?);
            }
            other => return Err(other.unexpected()),
        }
    }
    let bench = chosen.ok_or("a NAME is missing; --list names them")?;
    if options != Options::default() && bench.name != "broker" {
        return Err(
            format!("{} takes neither --data nor --figures, only broker does", bench.name).into()
        );
    }
    if options.data.is_some() && options.figures {
        return Err("--figures are of the built-in data: leave out --data".into());
    }
    Ok(Task::Run(bench, format, options))
}

fn run(bench: &Bench, format: Format, options: Options) -> ExitCode {
    let mut report = Report::new(format).with(options);
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

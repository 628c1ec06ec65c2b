//! The command line of `cargo xtask`.

use std::ffi::OsString;

use lexopt::{Arg, Parser, ValueExt};

/// What `--help` prints.
pub const HELP: &str = "\
Usage: cargo xtask COMMAND

  setup                     install what is missing to build, run and test Phantom
  demo [--interactive]      set up, then move a live program between two nodes on this machine
  test [--tier fast|desktops] [--list] [FILTER]
                            set up, then build and run the tests whose name holds FILTER
  desktop list | shell NAME  set up, then name the kinds of test desktops, or work in one
  bench NAME [--json|--keep]
                            measure against the baseline (--list names the benchmarks; --keep
                            puts the figures into docs/benchmarks.md)
  bench broker [--data DIR | --figures]
                            try every policy on the grids and jobs of a folder, or draw docs/broker
  soak NAME [--rounds N]    run what is too long for a test (--list names the soaks)
  soak tests [--rounds N] [FILTER]
                            repeat the tests until one fails; results go to docs/soak.md
  tidy [--fast]             check the tree (--fast: without clippy)
  doctor [--json]           what this machine can do for Phantom

Root is needed to install packages, to test and to run; as another user, single commands go
through sudo and are named before. Exit code: 0 done, 1 failed, 2 wrong use.

Environment:
  PHANTOM_MIRROR=URL        Debian mirror to use instead of the one apt is configured for
  PHANTOM_CRIU_SOURCE=FILE  CRIU source archive already on this machine (its digest is checked)
";

/// Which tests to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Unit, property and scenario tests on this machine's kernel.
    Fast,
    /// Tests inside virtual machines: test targets named `desktop_*`.
    Desktops,
}

/// The options of `test`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TestOptions {
    /// Only this tier; both when none is given.
    pub tier: Option<Tier>,
    /// Only tests whose `package/target::name` contains this.
    pub filter: Option<String>,
    /// Name the tests instead of running them.
    pub list: bool,
}

/// Which soak to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Soak {
    /// None: name them.
    List,
    /// Repeat the tests.
    Tests {
        /// How many times.
        rounds: u32,
        /// As in [`TestOptions::filter`].
        filter: Option<String>,
    },
    /// One that Phantom's own program knows, with its arguments.
    Named(String, Vec<String>),
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Print [`HELP`].
    Help,
    /// Install what is missing.
    Setup,
    /// Run the tests.
    Test(TestOptions),
    /// Check the tree.
    Tidy {
        /// Leave out what compiles.
        fast: bool,
    },
    /// Run the demo with these arguments.
    Demo(Vec<OsString>),
    /// Run the program for test desktops with these arguments.
    Desktop(Vec<OsString>),
    /// Run the benchmark program with these arguments.
    Bench(Vec<OsString>),
    /// Run a soak, or name them.
    Soak(Soak),
    /// Run `phantom doctor` with these arguments.
    Doctor(Vec<OsString>),
}

/// Reads the command line.
pub fn parse(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let command = match parser.next()? {
        None | Some(Arg::Short('h') | Arg::Long("help")) => return Ok(Task::Help),
        Some(Arg::Value(command)) => command.string()?,
        Some(other) => return Err(other.unexpected()),
    };
    match command.as_str() {
        "help" => Ok(Task::Help),
        "setup" => none(parser).map(|()| Task::Setup),
        "test" => test(parser),
        "tidy" => tidy(parser),
        "demo" => Ok(Task::Demo(rest(parser)?)),
        "desktop" => {
            let rest = rest(parser)?;
            if rest.is_empty() {
                return Err("desktop needs `list` or `shell NAME`".into());
            }
            Ok(Task::Desktop(rest))
        }
        "bench" => {
            let rest = rest(parser)?;
            if rest.is_empty() {
                return Err("bench needs a NAME; `cargo xtask bench --list` names them".into());
            }
            if ["--json", "--keep"].iter().all(|mode| rest.iter().any(|word| word == mode)) {
                return Err("--keep keeps the table: leave out --json".into());
            }
            Ok(Task::Bench(rest))
        }
        "soak" => soak(parser),
        "doctor" => Ok(Task::Doctor(rest(parser)?)),
        other => Err(format!("unknown command {other:?}").into()),
    }
}

fn rest(mut parser: Parser) -> Result<Vec<OsString>, lexopt::Error> {
    Ok(parser.raw_args()?.collect())
}

fn none(mut parser: Parser) -> Result<(), lexopt::Error> {
    match parser.next()? {
        None => Ok(()),
        Some(other) => Err(other.unexpected()),
    }
}

fn test(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let mut options = TestOptions::default();
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("tier") => options.tier = Some(tier(&parser.value()?.string()?)?),
            Arg::Long("list") => options.list = true,
            Arg::Value(value) if options.filter.is_none() => {
                options.filter = Some(value.string()?);
            }
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Test(options))
}

fn tier(name: &str) -> Result<Tier, lexopt::Error> {
    match name {
        "fast" => Ok(Tier::Fast),
        "desktops" => Ok(Tier::Desktops),
        other => Err(format!("unknown tier {other:?}: it is fast or desktops").into()),
    }
}

fn tidy(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let mut fast = false;
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("fast") => fast = true,
            other => return Err(other.unexpected()),
        }
    }
    Ok(Task::Tidy { fast })
}

fn soak(mut parser: Parser) -> Result<Task, lexopt::Error> {
    let (mut rounds, mut words, mut list) = (None, Vec::new(), false);
    while let Some(argument) = parser.next()? {
        match argument {
            Arg::Long("list") => list = true,
            Arg::Long("rounds") => rounds = Some(parser.value()?.parse::<u32>()?),
            Arg::Value(value) if words.len() < 2 => words.push(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    if rounds == Some(0) {
        return Err("--rounds must be at least 1".into());
    }
    let mut words = words.into_iter();
    Ok(Task::Soak(match (words.next(), words.next()) {
        _ if list => Soak::List,
        (None, _) => return Err("soak needs a NAME; `cargo xtask soak --list` names them".into()),
        (Some(name), filter) if name == "tests" => {
            Soak::Tests { rounds: rounds.unwrap_or(20), filter }
        }
        (Some(name), None) => {
            let arguments = rounds.map(|rounds| format!("--rounds={rounds}"));
            Soak::Named(name, arguments.into_iter().collect())
        }
        (Some(name), Some(word)) => {
            return Err(format!("soak {name} takes no {word:?}, only `soak tests` does").into());
        }
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(words: &[&str]) -> Result<Task, String> {
        parse(Parser::from_args(words)).map_err(|error| error.to_string())
    }

    #[test]
    fn commands() {
        assert_eq!(read(&[]), Ok(Task::Help));
        assert_eq!(read(&["setup"]), Ok(Task::Setup));
        assert_eq!(read(&["tidy", "--fast"]), Ok(Task::Tidy { fast: true }));
        let options =
            TestOptions { tier: Some(Tier::Fast), filter: Some("net".into()), list: false };
        assert_eq!(read(&["test", "--tier", "fast", "net"]), Ok(Task::Test(options)));
        assert_eq!(
            read(&["bench", "migration", "--json"]),
            Ok(Task::Bench(vec!["migration".into(), "--json".into()]))
        );
        assert_eq!(
            read(&["desktop", "shell", "alice"]),
            Ok(Task::Desktop(vec!["shell".into(), "alice".into()]))
        );
        let soak = |words: &[&str]| match read(words) {
            Ok(Task::Soak(soak)) => soak,
            other => panic!("{other:?}"),
        };
        assert_eq!(soak(&["soak", "--list"]), Soak::List);
        assert_eq!(
            soak(&["soak", "tests", "--rounds=3", "net"]),
            Soak::Tests { rounds: 3, filter: Some("net".into()) }
        );
        assert_eq!(soak(&["soak", "typing"]), Soak::Named("typing".into(), Vec::new()));
        assert_eq!(
            soak(&["soak", "moves", "--rounds", "3"]),
            Soak::Named("moves".into(), vec!["--rounds=3".into()])
        );
    }

    #[test]
    fn wrong_use_is_named() {
        assert!(read(&["fly"]).unwrap_err().contains("fly"));
        assert!(read(&["setup", "now"]).unwrap_err().contains("now"));
        assert!(read(&["test", "--tier", "slow"]).unwrap_err().contains("slow"));
        assert!(read(&["bench"]).unwrap_err().contains("NAME"));
        assert!(read(&["desktop"]).unwrap_err().contains("shell NAME"));
        assert!(read(&["bench", "fs", "--json", "--keep"]).unwrap_err().contains("--json"));
        assert!(read(&["soak"]).unwrap_err().contains("NAME"));
        assert!(read(&["soak", "typing", "net"]).unwrap_err().contains("net"));
        assert!(read(&["soak", "tests", "--rounds", "0"]).is_err());
    }
}

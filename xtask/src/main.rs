//! `cargo xtask`: set-up, demo, tests, benchmarks and checks of the tree.
//!
//! | module | what it does |
//! |---|---|
//! | [`args`] | the command line |
//! | [`command`] | runs other programs: as root where needed, with a deadline, a log and progress |
//! | [`digest`] | SHA-256 |
//! | [`environment`] | what the programs that are run are told |
//! | [`interrupt`] | ends what was started when the user stops us |
//! | [`root`] | being root, or having sudo for it |
//! | [`say`] | what the user reads meanwhile |
//! | [`setup`] | packages, CRIU, a second root, images of desktops, each only when missing |
//! | [`test`] | builds and runs every test, checks the skips, sums up |
//! | [`tidy`] | dependency edges, `unsafe`, file lengths, fmt, clippy, licences |
//! | [`workspace`] | the tree, as cargo sees it |
//! | [`product`] | what runs Phantom's own programs: demo, desktop, bench, doctor |
//! | [`soak`] | what runs long |
//! | [`page`] | pages that keep figures |
//!
//! It depends on no package of Phantom, so that it builds in seconds and works when they do not.
//! Nothing on the system is changed that is not said first.

mod args;
mod command;
mod digest;
mod environment;
mod interrupt;
mod page;
mod product;
mod root;
mod say;
mod setup;
mod soak;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use args::Task;
use setup::Extent;
use workspace::Workspace;

fn main() -> ExitCode {
    let task = match args::parse(lexopt::Parser::from_env()) {
        Ok(Task::Help) => {
            print!("{}", args::HELP);
            return ExitCode::SUCCESS;
        }
        Ok(task) => task,
        Err(error) => {
            eprintln!("xtask: {error}\nTry `cargo xtask --help`.");
            return ExitCode::from(2);
        }
    };
    match run(task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("\nxtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs one task; false when it ran to its end and found something wrong.
fn run(task: Task) -> anyhow::Result<bool> {
    interrupt::install()?;
    let workspace = Workspace::find()?;
    match task {
        Task::Help => Ok(true),
        Task::Setup => setup::run(&workspace, Extent::Base).map(|_| true),
        Task::Test(options) => test::run(&workspace, &options),
        Task::Tidy { fast } => tidy::run(&workspace, fast),
        Task::Demo(rest) => product::demo(&workspace, &rest),
        Task::Desktop(rest) => product::desktop(&workspace, &rest),
        Task::Bench(rest) => product::bench(&workspace, &rest),
        Task::Soak(soak) => soak::run(&workspace, &soak),
        Task::Doctor(rest) => product::doctor(&workspace, &rest),
    }
}

//! Programs that move between whole machines.

use phantom_tests::demo;
use phantom_tests::desktops::{Desktop, Lan, Release};
use phantom_tests::node::Node;

/// ada's desktop and another one, of another release, with another user and a clock that is an hour
/// ahead, that know each other.
fn pair(lan: &Lan) -> anyhow::Result<(Desktop, Desktop)> {
    // Two processors: the program that outgrows its limit keeps one busy.
    let plan = lan.desktop("attic").release(Release::Debian12).cpus(2);
    let attic = plan.person("ada", 1000).start()?;
    let cellar = lan.desktop("cellar").person("bob", 1500).start()?;
    cellar.run("date -s '+1 hour'")?;
    // As their owners do it: `phantom up` on each, `phantom accept` on one.
    attic.up(&[])?;
    attic.accept(&cellar)?;
    Ok((attic, cellar))
}

#[test]
fn the_demo_runs_on_two_desktops_of_different_releases() -> anyhow::Result<()> {
    let lan = Lan::new()?;
    let (attic, cellar) = pair(&lan)?;
    demo::run(&attic, "cellar").inspect_err(|_| {
        for desktop in [&attic, &cellar] {
            eprintln!("{}", desktop.logs());
        }
    })
}

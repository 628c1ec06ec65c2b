//! Programs that move between whole machines.

use anyhow::ensure;
use phantom_tests::demo;
use phantom_tests::desktops::{Desktop, Lan, Release};
use phantom_tests::node::Node;

/// ada's desktop and another one, of another release and with another user, that know each other.
fn pair(lan: &Lan) -> anyhow::Result<(Desktop, Desktop)> {
    // Two processors: the program that outgrows its limit keeps one busy.
    let plan = lan.desktop("attic").release(Release::Debian12).cpus(2);
    let attic = plan.person("ada", 1000).start()?;
    let cellar = lan.desktop("cellar").person("bob", 1500).start()?;
    // As their owners do it: `phantom up` on each, `phantom accept` on one.
    attic.up(&[])?;
    // One with a wrong clock is told so, and let in once it is right.
    cellar.run("date -s '+1 hour'")?;
    let refused = cellar.phantom(false, &["up", "--no-wait"])?;
    cellar.run("date -s '-1 hour'")?;
    let said = refused.stderr;
    ensure!(refused.code == 1 && said.lines().count() == 1, "a clock an hour ahead: {said}");
    ensure!(said.contains("the clocks differ by 3") && said.contains("set the clock"), "{said}");
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

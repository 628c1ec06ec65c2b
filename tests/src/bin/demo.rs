//! The demo on four machines in namespaces: ada's, a near one with another distribution, a fast one
//! behind a slow way, and a slow one. `cargo xtask demo` runs it; with `--interactive` the terminal
//! is the user's.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use phantom_tests::demo::{self, say};
use phantom_tests::lab::{CpuShare, Lab, LabNode, Node, Person};

fn main() -> anyhow::Result<()> {
    let interactive = std::env::args().any(|arg| arg == "--interactive");
    let second_root = std::env::var_os("PHANTOM_SECOND_ROOT").map(PathBuf::from);
    // Before the laboratory, so that they go after its processes.
    let (half, fifth) = (CpuShare::one_of("cellar", 2)?, CpuShare::one_of("loft", 5)?);
    let mut lab = Lab::open("demo")?.context("the demo needs root; use `cargo xtask demo`")?;
    say("Four machines on one: each with its own root, users, network and files.");
    let ada = lab.add("attic", Person::at_home("ada", 1000))?;
    let guest = || Person { name: "bob".into(), uid: 1500, has_home: false };
    let cellar = lab.add_with_root("cellar", guest(), second_root.as_deref())?;
    let (shed, loft) = (lab.add("shed", guest())?, lab.add("loft", guest())?);
    for (net, node) in [(1, cellar), (2, shed), (3, loft)] {
        lab.link(ada, node, net)?;
    }
    slow_way(lab.node(ada), "ph2a")?;
    slow_way(lab.node(shed), "ph2b")?;
    let system = |node: usize| -> anyhow::Result<String> {
        let release = lab.node(node).enter(&["cat", "/etc/os-release"])?.stdout;
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Ok(name.unwrap_or("unknown").trim_matches('"').to_owned())
    };
    println!("  attic   {}, ada (uid 1000) at home there", system(ada)?);
    println!("  cellar  {}, bob (uid 1500), /home is empty; near", system(cellar)?);
    println!("  shed    the same system as attic; behind a way of 400 kbit/s");
    println!("  loft    the same; near, and busy with other things");
    match &half {
        Some(_) => println!("  cellar has half a processor's speed, loft a fifth, shed all of it."),
        None => println!("  (This machine gives no shares of processors: all are equally fast.)"),
    }

    say("They get to know each other.");
    show(&lab, ada, &["up"])?;
    join(&lab, ada, cellar, half.as_ref())?;
    join(&lab, ada, shed, None)?;
    join(&lab, ada, loft, fifth.as_ref())?;
    lab.node(ada).wait_for_nodes(4)?;
    show(&lab, ada, &["nodes"])?;
    if interactive {
        return hand_over(&lab, ada);
    }
    demo::run(lab.node(ada), "cellar").inspect_err(|_| eprintln!("{}", lab.logs()))
}

/// Runs `phantom` as root and shows what it printed.
fn show(lab: &Lab, node: usize, args: &[&str]) -> anyhow::Result<()> {
    let node = lab.node(node);
    let output = node.phantom(false, args)?;
    print!("{}", demo::indented(&output.stdout, node.name()));
    ensure!(output.code == 0, "on {}: {}", node.name(), output.stderr.trim());
    Ok(())
}

/// A machine asks to be let in, and is accepted.
fn join(lab: &Lab, ada: usize, node: usize, share: Option<&CpuShare>) -> anyhow::Result<()> {
    let machine = lab.node(node);
    let args = ["--no-wait", "--json"];
    let asked = match share {
        Some(share) => share.up(machine, &args)?,
        None => machine.phantom(false, &["up", "--no-wait", "--json"])?,
    };
    ensure!(asked.code == 0, "on {}: {}", machine.name(), asked.stderr.trim());
    let asked: serde_json::Value = serde_json::from_str(&asked.stdout)?;
    let code = asked["asked"]["code"].as_str().context("it did not ask to be let in")?;
    println!("  {}: asks to be let in, and shows the code {code}", machine.name());
    show(lab, ada, &["accept", code])
}

/// Limits what a node sends on one of its links.
fn slow_way(node: &LabNode, device: &str) -> anyhow::Result<()> {
    let args = ["tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", "400kbit"];
    node.enter(&[&args[..], &["burst", "16kb", "latency", "300ms"]].concat()).map(drop)
}

/// Gives the user a shell on the first machine.
fn hand_over(lab: &Lab, node: usize) -> anyhow::Result<()> {
    say("You are ada on attic. Try:");
    println!("  phantom run --limit cpu=80%/2s -- python3 -q      (then keep it busy)");
    println!("  phantom ps; phantom nodes; phantom explain APP; phantom migrate APP cellar");
    println!("`exit` ends the demo and everything in it.\n");
    let phantom = std::env::var("PHANTOM_BIN").unwrap_or_default();
    let folder = std::path::Path::new(&phantom).parent().map(|dir| dir.display().to_string());
    let path = format!("PATH={}:/usr/local/bin:/usr/bin:/bin", folder.unwrap_or_default());
    let mut shell = lab.node(node).command(true, &["env", &path, "bash", "--norc", "-i"]);
    shell.stdin(std::process::Stdio::inherit());
    shell.status().context("cannot start a shell")?;
    Ok(())
}

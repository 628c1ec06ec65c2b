//! The demo on two machines in namespaces, the second with another distribution. `cargo xtask demo`
//! runs it; with `--interactive` the terminal is the user's.

use std::path::PathBuf;

use anyhow::{Context, ensure};
use phantom_tests::demo::{self, say};
use phantom_tests::lab::{Lab, Node, Person};

fn main() -> anyhow::Result<()> {
    let interactive = std::env::args().any(|arg| arg == "--interactive");
    let second_root = std::env::var_os("PHANTOM_SECOND_ROOT").map(PathBuf::from);
    let mut lab = Lab::open("demo")?.context("the demo needs root; use `cargo xtask demo`")?;
    say("Two machines on one: each with its own root, users, network and files.");
    let ada = lab.add("attic", Person::at_home("ada", 1000))?;
    let guest = Person { name: "bob".into(), uid: 1500, has_home: false };
    let cellar = lab.add_with_root("cellar", guest, second_root.as_deref())?;
    lab.link(ada, cellar, 1)?;
    let system = |node: usize| -> anyhow::Result<String> {
        let release = lab.node(node).enter(&["cat", "/etc/os-release"])?.stdout;
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        Ok(name.unwrap_or("unknown").trim_matches('"').to_owned())
    };
    println!("  attic   {}, ada (uid 1000) at home there", system(ada)?);
    println!("  cellar  {}, bob (uid 1500), /home is empty", system(cellar)?);

    say("They get to know each other.");
    show(&lab, ada, &["up"])?;
    let token = lab.node(ada).phantom(false, &["invite", "--json"])?;
    ensure!(token.code == 0, "{}", token.stderr.trim());
    let token: serde_json::Value = serde_json::from_str(&token.stdout)?;
    let token = token["token"].as_str().context("`phantom invite` gave no token")?;
    show(&lab, cellar, &["up", "--join", token])?;
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

//! Two nodes of a laboratory that know each other, for benchmarks of the whole product.

use anyhow::{Context, ensure};

use crate::lab::{Lab, Node, Person};

/// The node whose user starts programs.
pub const HOME: usize = 0;
/// The node they move to.
pub const AWAY: usize = 1;
/// The number of the link between them.
const LINK: u8 = 3;

/// The two nodes, with their daemons up.
pub struct Pair {
    lab: Lab,
}

impl Pair {
    /// Starts both and joins them. Both have this machine's own root, as the baselines have.
    ///
    /// # Errors
    /// Whatever fails, in the product's own words.
    pub fn start(bench: &str) -> anyhow::Result<Self> {
        let mut lab = Lab::open(bench)?.context("this benchmark needs root")?;
        lab.add("attic", Person::at_home("ada", 1000))?;
        lab.add("cellar", Person { name: "bob".into(), uid: 1500, has_home: false })?;
        lab.link(HOME, AWAY, LINK)?;
        let pair = Self { lab };
        pair.as_root(HOME, &["up"])?;
        let token = pair.as_root(HOME, &["invite", "--json"])?;
        let token: serde_json::Value = serde_json::from_str(&token)?;
        let token = token["token"].as_str().context("`phantom invite` gave no token")?;
        pair.as_root(AWAY, &["up", "--join", token])?;
        Ok(pair)
    }

    /// The laboratory.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    fn as_root(&self, node: usize, args: &[&str]) -> anyhow::Result<String> {
        let output = self.lab.node(node).phantom(false, args)?;
        ensure!(output.code == 0, "phantom {}: {}", args.join(" "), output.stderr.trim());
        Ok(output.stdout)
    }
}

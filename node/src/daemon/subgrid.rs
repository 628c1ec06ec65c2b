//! This node's part in its sub-grid: what it says of itself, how the sub-grid stands, and who has
//! what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use phantom_classad::{Expr, Scope, Value};
use phantom_discovery::Entry;
use phantom_discovery::machine::registry::description::Attributes;
use phantom_model::{NodeFacts, NodeId};
use phantom_net::Incoming;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::describe;
use super::peers::{Answer, Ask};
use super::{Daemon, Refusal, query};
use crate::api::types::{FindReply, FoundRow, SubgridState};

/// How often it is looked whether the node is still what it says.
const DESCRIBE: Duration = Duration::from_secs(5);
/// So many nodes are told at most.
const MAX_FOUND: usize = 1000;
/// How long a parcel may take to come in.
const PARCEL: Duration = Duration::from_secs(10);
/// So many expressions are looked at all members with at a time: each keeps a core busy.
const FINDS: usize = 2;
/// How long one more waits for its turn.
const TURN: Duration = Duration::from_secs(2);
/// How long an expression may take with one member, in steps; as long as in a query.
const STEPS: u32 = 2_000;

/// Searches under way through what the members say of themselves.
pub struct Finds(Arc<Semaphore>);

impl Default for Finds {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(FINDS)))
    }
}

impl Finds {
    /// Does this when it is its turn. A search that nobody waits for any more counts until it ends.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        search: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> anyhow::Result<T> {
        let turn = tokio::time::timeout(TURN, self.0.clone().acquire_owned()).await;
        let turn =
            turn.map_err(|_| anyhow!("this machine has too much to do: ask again later"))??;
        let searched = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            search()
        });
        searched.await?
    }
}

/// A node that meets a query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// Which.
    pub node: NodeId,
    /// What it says of itself, by name.
    pub attributes: BTreeMap<String, String>,
}

impl Daemon {
    /// Tells the sub-grid what this node is, whenever that changes.
    pub async fn describe_self(self: Arc<Self>) {
        let mut tick = tokio::time::interval(DESCRIBE);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tick.tick().await;
            let mut facts = self.facts.now();
            calm(&mut facts);
            let storage = describe::Storage::of(&self.config.state_dir);
            let availability = self.availability.now() / 50 * 50;
            let attributes = describe::attributes(&facts, storage, availability);
            if told.as_ref() == Some(&attributes) {
                continue;
            }
            match Attributes::new(attributes.clone()) {
                Ok(described) => self.subgrid.describe(described).await,
                Err(error) => tracing::warn!(%error, "this node cannot be described"),
            }
            told = Some(attributes);
        }
    }

    /// A parcel of the group or the registry: in the header, or a request where it is long.
    pub async fn take_parcel(&self, mut incoming: Incoming) -> anyhow::Result<()> {
        let peer = incoming.peer;
        let parcel = match incoming.header::<Option<Vec<u8>>>()? {
            Some(parcel) => parcel,
            None => {
                let parcel = incoming.request(PARCEL).await?;
                incoming.reply(&(), PARCEL).await?;
                parcel
            }
        };
        self.subgrid.take(peer, parcel).await;
        Ok(())
    }

    /// How the sub-grid stands, in names.
    pub fn subgrid_state(&self) -> Result<SubgridState, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let status = self.subgrid.status();
        let names = |nodes: &[NodeId]| {
            let mut names: Vec<String> =
                nodes.iter().map(|node| self.members.name(*node)).collect();
            names.sort();
            names
        };
        Ok(SubgridState {
            super_peer: status.super_peer.map(|(node, _)| self.members.name(node)),
            mandate: status.super_peer.map(|(_, mandate)| mandate.to_string()),
            this: status.super_peer.is_some_and(|(node, _)| node == self.node),
            decides: status.decides,
            generation: status.generation,
            electors: names(&status.electors),
            voters: names(&status.voters),
            registered: status.registered,
            registry: status.registry,
            archive: status.archive,
            gathering: status.gathering,
            follows: Vec::new(),
        })
    }

    /// What the registry says of nodes that meet `text`; only the super-peer has it.
    pub async fn find_here(&self, text: &str) -> anyhow::Result<Vec<Found>> {
        let entries = self.subgrid.entries().await.context("this node is not the super-peer")?;
        // Evaluating some thousand ads takes its milliseconds.
        let text = text.to_owned();
        let up = self.living();
        self.finds.run(move || meeting(&entries, &text, &up)).await
    }

    /// The members that live.
    pub(super) fn living(&self) -> BTreeSet<NodeId> {
        let members = self.network.members().into_iter().map(|member| member.node());
        let lives = |node: &NodeId| {
            *node == self.node || self.discovery.seen(*node).is_some_and(|seen| seen.up)
        };
        members.filter(lives).collect()
    }

    /// Asks the super-peer which nodes meet an expression: all of them, whether up or away.
    pub async fn find(&self, text: &str, within_ms: Option<u64>) -> Result<FindReply, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let within = query::patience(within_ms)?;
        describe::expression(text)?;
        let began = Instant::now();
        let mut changes = self.subgrid.changes();
        let (mut route, mut messages) = (Vec::new(), 0);
        loop {
            let super_peer = changes.borrow_and_update().super_peer;
            let Some((node, _)) = super_peer else {
                return Err(Refusal::failed(
                    "no super-peer answers for the sub-grid now; `phantom subgrid` tells why, and \
                     `phantom nodes --where` without `--scope` asks each member",
                ));
            };
            let name = self.members.name(node);
            route.push(name.clone());
            messages += if node == self.node { 0 } else { 2 };
            let found = tokio::select! {
                found = self.find_at(node, text, within.saturating_sub(began.elapsed())) => found,
                // It may be gone: its successor is asked at once.
                _ = changes.wait_for(|now| now.super_peer != super_peer) => continue,
            };
            return Ok(FindReply {
                rows: found?.into_iter().map(|found| self.found_row(found)).collect(),
                route,
                messages,
                micros: u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX),
            });
        }
    }

    async fn find_at(
        &self,
        node: NodeId,
        text: &str,
        within: Duration,
    ) -> anyhow::Result<Vec<Found>> {
        if node == self.node {
            return self.find_here(text).await;
        }
        match self.ask(node, &Ask::Find(text.to_owned()), within).await? {
            Answer::Found(found) => Ok(found),
            _ => bail!("{} did not understand", self.members.name(node)),
        }
    }

    fn found_row(&self, found: Found) -> FoundRow {
        let name = found.attributes.get("Name").map(|text| value(text));
        let name = match name {
            Some(Value::Text(name)) => name.to_string(),
            _ => self.members.name(found.node),
        };
        FoundRow { node: found.node, name, attributes: found.attributes }
    }
}

/// What the text of an attribute comes to by itself.
pub(super) fn value(text: &str) -> Value {
    Expr::parse(text)
        .map_or(Value::Error, |expr| Scope::of(&Default::default()).within(STEPS).eval(&expr))
}

/// What the `State` of a node is called.
pub(super) fn state(up: &BTreeSet<NodeId>, node: NodeId) -> &'static str {
    if up.contains(&node) { "up" } else { "away" }
}

fn meeting(entries: &[Entry], text: &str, up: &BTreeSet<NodeId>) -> anyhow::Result<Vec<Found>> {
    ensure!(text.len() <= describe::MAX_EXPRESSION, "the expression is too long");
    let Ok(expr) = Expr::parse(text) else { bail!("`{text}` is no expression") };
    let mut found = Vec::new();
    for entry in entries {
        let state = state(up, entry.node);
        let mut ad = entry.attributes.ad();
        ad.insert("State", Value::from(state));
        if Scope::of(&ad).within(STEPS).eval(&expr).is_true() && found.len() < MAX_FOUND {
            let attributes = entry.attributes.iter();
            let mut attributes: BTreeMap<String, String> =
                attributes.map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
            attributes.insert("State".to_owned(), Value::from(state).to_string());
            found.push(Found { node: entry.node, attributes });
        }
    }
    Ok(found)
}

/// What changes from second to second is told in steps, so that a node at rest says nothing new.
fn calm(facts: &mut NodeFacts) {
    let step = (facts.cores * 100 / 8).max(25);
    facts.idle_centicores = (facts.idle_centicores + step / 2) / step * step;
    facts.idle_centicores = facts.idle_centicores.min(facts.cores * 100);
    facts.load_centi = (facts.load_centi + 25) / 50 * 50;
    let part = (facts.memory_total.0 / 32).max(1);
    facts.memory_free.0 = facts.memory_free.0 / part * part;
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn few_searches_run_at_a_time_and_others_are_refused() {
        let finds = Arc::new(Finds::default());
        let mut ends = Vec::new();
        for _ in 0..FINDS {
            let (end, ended) = mpsc::channel::<()>();
            let finds = finds.clone();
            let search = tokio::spawn(async move {
                finds.run(move || Ok(ended.recv_timeout(Duration::from_secs(20)))).await
            });
            ends.push((end, search));
        }
        tokio::time::timeout(Duration::from_secs(5), async {
            while finds.0.available_permits() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap();
        // Who asks no longer has started something nevertheless.
        ends[0].1.abort();
        let refused = finds.run(|| Ok(())).await.unwrap_err().to_string();
        assert_eq!(refused, "this machine has too much to do: ask again later");
        let (end, _) = ends.remove(0);
        end.send(()).unwrap();
        finds.run(|| Ok(())).await.unwrap();
    }

    #[test]
    fn an_expression_that_takes_long_meets_nobody() {
        // Each attribute asks for the one before it twice.
        let mut said: BTreeMap<String, String> =
            (1..=12).map(|n| (format!("A{n}"), format!("A{} + A{}", n - 1, n - 1))).collect();
        said.insert("A0".to_owned(), "1".to_owned());
        let attributes = Attributes::new(said).unwrap();
        let node = NodeId([1; 32]);
        let entry = Entry { node, attributes, age: Duration::ZERO, confirmed: true };
        let found = |text: &str| {
            meeting(std::slice::from_ref(&entry), text, &Default::default()).unwrap().len()
        };
        assert_eq!(found("A4 == 16"), 1);
        assert_eq!(Scope::of(&entry.attributes.ad()).attribute("A12").to_string(), "4096");
        assert_eq!(found("A12 == 4096"), 0);
    }
}

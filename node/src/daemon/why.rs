//! Why nodes match or do not: which of the things that are asked fail on how many of them, and what
//! would help.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use phantom_broker::{Candidate, Decision, Needs, Requirement, Weighed};
use phantom_classad::{Ad, Analysis, Expr, Value, analyse};
use phantom_model::{AppId, NodeId};

use super::peers::{Answer, Ask};
use super::timeline::clean;
use super::{Daemon, Refusal, describe};
use crate::api::types::{
    Diagnosis, UnknownName, WhyApp, WhyHelp, WhyInstead, WhyPart, WhyReply, WhyRequest,
};

/// How long the super-peer may take.
const WITHIN: Duration = Duration::from_secs(10);
/// How long one part of an expression may take with one node, in steps; as a whole one in a query.
const STEPS: u32 = 2_000;
/// So many nodes are named where one would do.
const NAMED: usize = 3;
/// So many that match.
const MATCHING: usize = 16;
/// What another node may say.
const MOST_ROWS: usize = 64;
const LONGEST_TEXT: usize = 1000;
/// Names further apart than this part of their length are not alike.
const ALIKE: f64 = 0.6;

impl Daemon {
    /// Answers `phantom why`, of an app of the caller or of an expression.
    pub async fn why(
        &self,
        app: Result<AppId, Refusal>,
        asked: WhyRequest,
    ) -> Result<WhyReply, Refusal> {
        let app = match app {
            Ok(app) => app,
            // A name alone asks nothing of a node.
            Err(no_app) if is_name(&asked.of) => return Err(no_app),
            Err(_) => return self.why_expression(&asked.of).await,
        };
        let record = self.apps.record(app)?;
        let verdict = self.apps.with(app, |app| app.verdict.clone())?;
        let obstacles = self.obstacles(&record).await?.0;
        let situation = self.situation(&record, verdict.as_ref()).await;
        let (decision, candidates) = self.weigh(&situation).await;
        let goes = decision.go.filter(|_| obstacles.is_empty());
        Ok(WhyReply {
            diagnosis: bounded(of_app(&situation.needs, &decision, &candidates)),
            app: Some(WhyApp {
                name: record.spec.name.clone(),
                host: self.members.name(record.host),
                goes: goes.map(|node| self.members.name(node)),
                decision: decision.why,
                obstacles,
            }),
            by: None,
        })
    }

    async fn why_expression(&self, text: &str) -> Result<WhyReply, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let asked = describe::expression(text)?;
        let Some((node, _)) = self.subgrid.status().super_peer else {
            // What is known here of the members is better than nothing.
            let rows = self.nodes().await?;
            let ads: Vec<_> =
                rows.iter().map(|row| (row.name.clone(), describe::ad(row))).collect();
            let diagnosis = bounded(of_expression(&asked, &ads));
            return Ok(WhyReply { diagnosis, app: None, by: None });
        };
        let diagnosis = if node == self.node {
            self.why_here(text).await?
        } else {
            match self.ask(node, &Ask::Why(text.to_owned()), WITHIN).await? {
                Answer::Why(diagnosis) => *diagnosis,
                _ => {
                    let name = self.members.name(node);
                    return Err(Refusal::failed(format!("{name} did not understand")));
                }
            }
        };
        let by = Some(self.members.name(node));
        Ok(WhyReply { diagnosis: bounded(diagnosis), app: None, by })
    }

    /// What an expression comes to on the nodes of the registry; only the super-peer has it.
    pub async fn why_here(&self, text: &str) -> anyhow::Result<Diagnosis> {
        ensure!(text.len() <= describe::MAX_EXPRESSION, "the expression is too long");
        let Ok(asked) = Expr::parse(text) else { bail!("`{text}` is no expression") };
        let entries = self.subgrid.entries().await.context("this node is not the super-peer")?;
        let up = self.living();
        let name = |node: NodeId| self.members.name(node);
        let ads: Vec<_> = entries
            .iter()
            .map(|entry| {
                let mut ad = entry.attributes.ad();
                ad.insert("State", Value::from(super::subgrid::state(&up, entry.node)));
                (name(entry.node), ad)
            })
            .collect();
        self.finds.run(move || Ok(of_expression(&asked, &ads))).await
    }
}

/// Whether a text is but a name, as apps have.
fn is_name(text: &str) -> bool {
    let usable = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    !["true", "false"].contains(&text.to_ascii_lowercase().as_str()) && text.chars().all(usable)
}

/// What an expression comes to on nodes, each with its name.
fn of_expression(asked: &Expr, nodes: &[(String, Ad)]) -> Diagnosis {
    let analysis = analyse(None, asked, nodes.iter().map(|(_, ad)| ad), STEPS);
    let scope = |ad| phantom_classad::Scope::of(ad).within(STEPS);
    let matching = nodes.iter().filter(|(_, ad)| scope(ad).eval(asked).is_true());
    let parts = analysis.parts.iter().map(|part| part_row(part, part.expr.to_string()));
    Diagnosis {
        nodes: analysis.ads,
        matching: analysis.matching,
        names: matching.map(|(name, _)| name.clone()).take(MATCHING).collect(),
        parts: parts.collect(),
        helps: helps(&analysis),
        unknown: unknown(asked, nodes),
    }
}

fn part_row(part: &phantom_classad::Part, asks: String) -> WhyPart {
    let instead = part.suggestion.as_ref().map(|it| WhyInstead {
        asks: format!("{} {} {}", it.subject, it.comparison.mark(), it.value),
        holds: it.holds,
        matching: it.matching,
    });
    WhyPart {
        asks,
        holds: part.holds,
        fails: part.fails,
        undefined: part.undefined,
        error: part.error,
        reasons: Vec::new(),
        instead,
    }
}

fn helps(analysis: &Analysis) -> Vec<WhyHelp> {
    let help = |it: &phantom_classad::Relaxation| WhyHelp {
        without: it.parts.clone(),
        matching: it.matching,
    };
    analysis.relaxations.iter().map(help).collect()
}

/// Names that no node has, each with one that is alike.
fn unknown(asked: &Expr, nodes: &[(String, Ad)]) -> Vec<UnknownName> {
    let missing = asked.names().into_iter();
    let missing = missing.filter(|name| nodes.iter().all(|(_, ad)| ad.get(name).is_none()));
    let alike = |name: &str| {
        let said = nodes.iter().flat_map(|(_, ad)| ad.iter().map(|(said, _)| said));
        let near = |said: &str| {
            strsim::normalized_damerau_levenshtein(
                &said.to_ascii_lowercase(),
                &name.to_ascii_lowercase(),
            )
        };
        let best = said.max_by(|a, b| near(a).total_cmp(&near(b)))?;
        (near(best) >= ALIKE).then(|| best.to_owned())
    };
    let row = |name: &str| UnknownName { name: name.to_owned(), like: alike(name) };
    if nodes.is_empty() { Vec::new() } else { missing.map(row).collect() }
}

/// What an app asks, what its node's ad calls it, and how people say it.
fn asks(needs: &Needs) -> Vec<(Requirement, String, Option<String>)> {
    let vo = needs.rules.vo.as_ref().and_then(|vo| vo.names.first());
    let said = |words: &str| Some(words.to_owned());
    let ask = |requirement| {
        let (asks, words) = match requirement {
            Requirement::Elsewhere => return None,
            Requirement::Organisation => {
                let vo = vo?;
                ("InOrganisation".to_owned(), Some(format!("it is in {vo}")))
            }
            Requirement::Policy => ("Allowed".to_owned(), said("the policy lets it go there")),
            Requirement::Answers => ("Answers".to_owned(), said("the node answers")),
            Requirement::Restores => ("RestoresApps".to_owned(), said("it can restore apps")),
            Requirement::ShowsFiles => ("ShowsFiles".to_owned(), said("it can show home's files")),
            Requirement::Arch => {
                (format!("Arch == {}", Value::from(needs.started_on.arch.as_str())), None)
            }
            Requirement::Cpu => ("HasFeatures".to_owned(), said("its CPU has what the app uses")),
            Requirement::Memory => {
                (format!("FreeMemory >= {}", needs.memory().0.div_ceil(1 << 20)), None)
            }
        };
        Some((requirement, asks, words))
    };
    Requirement::ALL.into_iter().filter_map(ask).collect()
}

/// What the broker asks besides.
const FRESH: &str = "Fresh";
const GAINS: &str = "Gains";

/// A node as an app's requirements see it.
fn ad(candidate: &Candidate, needs: &Needs, weighed: &Weighed) -> Ad {
    let refused = candidate.refusals(needs);
    let gives = |requirement| Value::Bool(!refused.iter().any(|(it, _)| *it == requirement));
    let mut ad = Ad::default();
    ad.insert("InOrganisation", gives(Requirement::Organisation));
    ad.insert("Allowed", gives(Requirement::Policy));
    ad.insert("Answers", gives(Requirement::Answers));
    if let Some(facts) = &candidate.facts {
        ad.insert("RestoresApps", gives(Requirement::Restores));
        ad.insert("ShowsFiles", gives(Requirement::ShowsFiles));
        ad.insert("HasFeatures", gives(Requirement::Cpu));
        ad.insert("Arch", Value::from(facts.arch.as_str()));
        let free = i64::try_from(facts.memory_free.0 >> 20).unwrap_or(i64::MAX);
        ad.insert("FreeMemory", Value::Int(free));
        // Whoever is refused for nothing else and yet not weighed is where it exceeded its limits.
        if refused.is_empty() {
            ad.insert(FRESH, Value::Bool(weighed.outcome.is_ok()));
        }
        if let Ok(weight) = &weighed.outcome {
            ad.insert(GAINS, Value::Bool(weight.worth));
        }
    }
    ad
}

/// What an app asks of the other nodes, and how many give it.
fn of_app(needs: &Needs, decision: &Decision, candidates: &[Candidate]) -> Diagnosis {
    let rows = asks(needs);
    let nodes: Vec<(&Candidate, &Weighed, Ad)> = decision
        .weighed
        .iter()
        .filter_map(|weighed| {
            let candidate = candidates.iter().find(|it| it.node == weighed.node)?;
            Some((candidate, weighed, ad(candidate, needs, weighed)))
        })
        .collect();
    // What is not known of a node, as other things keep the app from it, is no obstacle of its own.
    let known = [(FRESH, "it is not where it exceeded its limits"), (GAINS, "the app wins by it")];
    let known =
        known.into_iter().filter(|(name, _)| nodes.iter().any(|(.., ad)| ad.get(name).is_some()));
    let known: Vec<_> = known.collect();
    let asks = rows.iter().map(|(_, asks, _)| asks.clone());
    let asks = asks.chain(known.iter().map(|(name, _)| format!("{name} =!= false")));
    let text = asks.collect::<Vec<_>>().join(" && ");
    // It was put together here, of texts that are quoted.
    let asked = Expr::parse(&text).unwrap_or_else(|_| Value::Error.into());
    let analysis = analyse(None, &asked, nodes.iter().map(|(.., ad)| ad), STEPS);
    let words = rows.into_iter().map(|(requirement, _, words)| (Some(requirement), words));
    let words = words.chain(known.iter().map(|(_, words)| (None, Some((*words).to_owned()))));
    let parts = analysis.parts.iter().zip(words).map(|(part, (requirement, words))| {
        let mut row = part_row(part, words.unwrap_or_else(|| part.expr.to_string()));
        let refused = nodes.iter().filter_map(|(candidate, ..)| {
            let refusals = candidate.refusals(needs);
            let (_, reason) = refusals.into_iter().find(|(it, _)| Some(*it) == requirement)?;
            Some(format!("{} {reason}", candidate.name))
        });
        row.reasons = match part.expr.names()[..] {
            [FRESH] => left(&nodes),
            [GAINS] => weak(&nodes),
            _ => refused.take(NAMED).collect(),
        };
        row
    });
    let able = nodes
        .iter()
        .filter(|(_, weighed, _)| weighed.outcome.as_ref().is_ok_and(|weight| weight.worth));
    Diagnosis {
        nodes: analysis.ads,
        matching: analysis.matching,
        names: able.map(|(candidate, ..)| candidate.name.clone()).take(MATCHING).collect(),
        parts: parts.collect(),
        helps: helps(&analysis),
        unknown: Vec::new(),
    }
}

fn left(nodes: &[(&Candidate, &Weighed, Ad)]) -> Vec<String> {
    let refused = nodes.iter().filter(|(.., ad)| !ad.value(FRESH).is_true());
    let reasons = refused.filter(|(.., ad)| ad.get(FRESH).is_some()).filter_map(|(_, it, _)| {
        let reason = it.outcome.as_ref().err()?;
        Some(format!("{} {reason}", it.name))
    });
    reasons.take(NAMED).collect()
}

fn weak(nodes: &[(&Candidate, &Weighed, Ad)]) -> Vec<String> {
    let weights = nodes.iter().filter_map(|(_, it, _)| {
        let weight = it.outcome.as_ref().ok().filter(|weight| !weight.worth)?;
        Some(format!("{}: {}", it.name, weight.balance()))
    });
    weights.take(NAMED).collect()
}

/// What other nodes have said, as much as a reader can take.
fn bounded(mut said: Diagnosis) -> Diagnosis {
    let text = |text: &mut String| *text = clean(text, LONGEST_TEXT);
    said.names.truncate(MATCHING);
    said.parts.truncate(MOST_ROWS);
    said.helps.truncate(MOST_ROWS);
    said.unknown.truncate(MOST_ROWS);
    said.names.iter_mut().for_each(text);
    for part in &mut said.parts {
        text(&mut part.asks);
        part.reasons.truncate(NAMED);
        part.reasons.iter_mut().for_each(text);
        part.instead.iter_mut().for_each(|it| text(&mut it.asks));
    }
    for name in &mut said.unknown {
        text(&mut name.name);
        name.like.iter_mut().for_each(text);
    }
    let parts = said.parts.len();
    said.helps.retain(|help| help.without.iter().all(|part| *part < parts));
    said
}

#[cfg(test)]
mod tests;

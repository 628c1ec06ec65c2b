//! Questions about who has what, and their answers.

use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

/// `GET /v1/find`.
#[derive(Debug, Serialize, Deserialize)]
pub struct FindQuery {
    /// A ClassAd expression.
    #[serde(rename = "where")]
    pub of_which: String,
    /// How long to wait, in milliseconds; 5000 when absent, 60000 at most.
    pub within_ms: Option<u64>,
    /// Only members of this virtual organisation.
    pub vo: Option<String>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindReply {
    /// The nodes that meet it.
    pub rows: Vec<FoundRow>,
    /// Who was asked, by name, in order.
    pub route: Vec<String>,
    /// Messages it took, answers included.
    pub messages: u32,
    /// How long it took.
    pub micros: u64,
}

/// A node that meets a query.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FoundRow {
    /// Which.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// What it says of itself: names of attributes and their texts, as in a ClassAd.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// How far a query goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Reach {
    /// The own sub-grid.
    Subgrid,
    /// Its region as well.
    Region,
    /// Every region.
    Grid,
}

/// `POST /v1/query`: the best nodes that meet an expression, and no others.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryRequest {
    /// A ClassAd expression that must be true of a node.
    #[serde(rename = "where")]
    pub of_which: String,
    /// How far to ask.
    pub scope: Reach,
    /// How many nodes are wanted; 12 when absent, and at most.
    #[serde(default)]
    pub count: Option<u8>,
    /// A ClassAd expression by which nodes are ranked, the highest first.
    #[serde(default)]
    pub rank: Option<String>,
    /// How long to wait, in milliseconds; 5000 when absent, 60000 at most.
    #[serde(default)]
    pub within_ms: Option<u64>,
    /// Only nodes of this virtual organisation.
    #[serde(default)]
    pub vo: Option<String>,
}

/// Its answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct QueryReply {
    /// How it ended.
    pub outcome: QueryOutcome,
    /// The nodes that match, the best first.
    pub rows: Vec<MatchRow>,
    /// Who has handled it, in order, up to the last whose nodes are among the rows.
    pub route: Vec<HopRow>,
    /// One-way steps, one after the other, that it has taken.
    pub steps: u32,
    /// Messages it has cost, as far as is known to who has answered.
    pub messages: u32,
    /// How long it took.
    pub micros: u64,
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueryOutcome {
    /// There are as many as were wanted.
    Met,
    /// There are fewer, or none: nobody else has more.
    Short,
    /// There are fewer, or none: the sub-grid belongs to no region, so nobody else was asked.
    Alone,
    /// Not everybody has answered in time; these have matched so far.
    Late,
}

/// A node that matches.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MatchRow {
    /// Which.
    pub node: NodeId,
    /// What people call it.
    pub name: String,
    /// Its sub-grid.
    pub subgrid: phantom_model::SubgridId,
    /// Its rank; 0 without one.
    pub rank: f64,
    /// What it says of itself as far as the query is about it: names of attributes and what they come
    /// to, as in a ClassAd.
    pub attributes: std::collections::BTreeMap<String, String>,
}

/// A node on a query's way.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HopRow {
    /// Its name where that is known, else the beginning of its id.
    pub node: String,
    /// What it has done there: `asker`, `super-peer`, `region-peer` or `answering super-peer`.
    pub role: String,
}

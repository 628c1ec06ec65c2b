//! What travels over the local API, as JSON.

pub use super::query::*;
use std::path::PathBuf;

use phantom_model::app::OsText;
use phantom_model::{AppId, Epoch, Limits, NodeId, SubgridId, TermSize};
use serde::{Deserialize, Serialize};

/// `POST /v1/apps`: start a command.
#[derive(Debug, Serialize, Deserialize)]
pub struct RunRequest {
    /// What to call it; made from the command when absent.
    pub name: Option<String>,
    /// The command and its arguments.
    pub argv: Vec<OsText>,
    /// Environment, `NAME=value`.
    pub env: Vec<OsText>,
    /// Working directory.
    pub cwd: OsText,
    /// When it shall move.
    pub limits: Limits,
    /// Size of the terminal it starts with.
    pub term_size: TermSize,
    /// The virtual organisation it shall run under.
    #[serde(default)]
    pub vo: Option<String>,
}

/// Answer to [`RunRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct RunReply {
    /// The new app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// Where terminals attach.
    pub attach: PathBuf,
    /// What could not be given, each a line for the user.
    pub notes: Vec<String>,
}

/// Where an app stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AppState {
    /// It runs.
    Running,
    /// It is on its way to another node.
    Moving,
    /// The node it runs on, or its home, cannot be reached.
    Unreachable,
}

/// One app in a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppRow {
    /// Which app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// Its user's login name.
    pub user: String,
    /// The command line, shortened to what fits.
    pub command: String,
    /// Where it stands.
    pub state: AppState,
    /// Name of the node it runs on.
    pub host: String,
    /// Name of the node it was started on.
    pub home: String,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its limits as the user wrote them.
    pub limits: String,
    /// The virtual organisation it runs under.
    pub vo: Option<String>,
    /// Whether it could move, as of some seconds ago.
    pub movable: Option<bool>,
    /// What prevents it.
    pub obstacle: Option<String>,
    /// Percent of a core over the last sample, where the monitor is on.
    pub cpu_percent: Option<u32>,
    /// Resident bytes, where the monitor is on.
    pub resident_bytes: Option<u64>,
    /// Seconds since 1970 when it was started.
    pub started_unix_s: u64,
    /// Where terminals attach, when its home is this node.
    pub attach: Option<PathBuf>,
}

/// Whether a node is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// It lives.
    Up,
    /// It does not answer, but was heard of a moment ago.
    Silent,
    /// It is gone, switched off or asleep.
    Away,
}

/// `GET /v1/nodes`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct NodesQuery {
    /// Only those of which this ClassAd expression is true.
    #[serde(rename = "where")]
    pub of_which: Option<String>,
    /// Only members of this virtual organisation.
    pub vo: Option<String>,
}

/// One node in a listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeRow {
    /// Which node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Whether it is this one.
    pub this: bool,
    /// Whether it answers.
    pub reachable: bool,
    /// Whether it is there, by what all members have heard of it.
    pub state: NodeState,
    /// Cores, when known.
    pub cores: Option<u32>,
    /// Idle hundredths of a core, when known.
    pub idle_centicores: Option<u32>,
    /// Programs that run or want to, over the last minute, in hundredths, when known.
    pub load_centi: Option<u32>,
    /// All memory in bytes, when known.
    pub memory_total: Option<u64>,
    /// Free memory in bytes, when known.
    pub memory_free: Option<u64>,
    /// Speed of one core in Mflop/s, when known.
    pub mflops: Option<u32>,
    /// Bytes a second to it, when measured.
    pub bytes_per_s: Option<f64>,
    /// By which factor that may be off, as it was measured and grows old (one standard deviation).
    pub way_doubt: Option<f64>,
    /// How long ago it was measured, in seconds.
    pub way_age_s: Option<u64>,
    /// Round trip in microseconds, when connected.
    pub rtt_us: Option<u64>,
    /// How it is reached, in words.
    pub path: String,
    /// Its part in the sub-grid's group.
    pub role: NodeRole,
    /// What it cannot do, in words.
    pub lacks: Vec<String>,
}

/// A member's part in the sub-grid's group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeRole {
    /// Answers for the sub-grid.
    SuperPeer,
    /// Elects who does.
    Voter,
    /// Neither.
    Member,
}

/// `GET /v1/subgrid`: how the sub-grid stands, as this node knows.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SubgridState {
    /// Who answers for it.
    pub super_peer: Option<String>,
    /// In which name: generation and term.
    pub mandate: Option<String>,
    /// Whether that is this node.
    pub this: bool,
    /// Whether this is the super-peer, and most electors have answered it lately.
    pub decides: bool,
    /// Generation of the group; 0: this node knows of none.
    pub generation: u64,
    /// Whose majority decides about the next generation.
    pub electors: Vec<String>,
    /// Who elects the super-peer.
    pub voters: Vec<String>,
    /// Whether the super-peer has this node's description.
    pub registered: bool,
    /// On the super-peer: members in the registry.
    pub registry: Option<usize>,
    /// On the super-peer: members in the archive, shards of it that are stored, and that suffice.
    pub archive: Option<(usize, usize, usize)>,
    /// On the super-peer: it still gathers what was archived.
    pub gathering: bool,
    /// Services that run wherever the super-peer is.
    #[serde(default)]
    pub follows: Vec<FollowRow>,
}

/// A service that runs wherever the super-peer is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FollowRow {
    /// What it is called.
    pub name: String,
    /// Where it runs; `None`: nowhere, as far as is known.
    pub node: Option<String>,
    /// Since when, in seconds since 1970.
    pub since_unix_s: Option<u64>,
    /// It was asked to end.
    pub stopping: bool,
    /// Why it does not run.
    pub why: Option<String>,
    /// How it last ended.
    pub exit: Option<String>,
    /// When its state was last saved, in seconds since 1970.
    pub saved_unix_s: Option<u64>,
    /// How many bytes that is.
    pub saved_bytes: Option<u64>,
    /// Why its state is not saved now.
    pub trouble: Option<String>,
}

/// `POST /v1/up`: take part.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct UpRequest {
    /// Join with this token.
    pub join: Option<String>,
    /// Found a sub-grid without looking for one.
    #[serde(default)]
    pub new: bool,
    /// Ask these machines instead of the local network: name or address, with or without a port.
    #[serde(default)]
    pub peers: Vec<String>,
    /// Which sub-grid, if there are several: the beginning of its id, or the name of a member.
    #[serde(default)]
    pub subgrid: Option<String>,
}

/// Answer to [`UpRequest`], and to `GET /v1/up`, which waits for news of a request.
#[derive(Debug, Serialize, Deserialize)]
pub struct UpReply {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// What happened, one line; empty while it waits.
    pub line: String,
    /// Members, this one included; none while it waits.
    pub members: usize,
    /// The request that waits to be accepted.
    pub asked: Option<AskedRow>,
}

/// This machine's own request to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AskedRow {
    /// What both sides show.
    pub code: String,
    /// What the asked member is called.
    pub of: String,
    /// Its sub-grid, short.
    pub subgrid: String,
}

/// A machine that waits to be let in.
#[derive(Debug, Serialize, Deserialize)]
pub struct RequestRow {
    /// The code it shows as well.
    pub code: String,
    /// What it wants to be called.
    pub name: String,
    /// Which node.
    pub node: NodeId,
    /// Where it asks from.
    pub from: String,
    /// For how long, in seconds.
    pub waiting_s: u64,
}

/// `POST /v1/requests/accept` and `/deny`.
#[derive(Debug, Serialize, Deserialize)]
pub struct CodeRequest {
    /// The code of the request.
    pub code: String,
}

/// `POST /v1/delegates`.
#[derive(Debug, Serialize, Deserialize)]
pub struct DelegateRequest {
    /// Name of a member, or the beginning of its id.
    pub node: String,
    /// Take the right back.
    pub withdraw: bool,
}

/// Answer to what concerns one node.
#[derive(Debug, Serialize, Deserialize)]
pub struct AcceptReply {
    /// What it is called.
    pub name: String,
}

/// One version of the sub-grid's policy document.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyRow {
    /// Which version; 0 where there is none yet.
    pub version: u64,
    /// When it was signed, in seconds since 1970.
    pub signed_unix_s: u64,
    /// What it says, as TOML.
    pub text: String,
    /// Whether it is the one that counts.
    pub counts: bool,
}

/// `POST /v1/policy`: sign the next version.
#[derive(Debug, Serialize, Deserialize)]
pub struct PolicyRequest {
    /// What it shall say.
    pub text: String,
    /// The version it was made from.
    pub seen: u64,
}

/// `GET /v1/vos`.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct VosQuery {
    /// Only the one of that name.
    pub name: Option<String>,
}

/// `POST /v1/vos`: make, change or dissolve a virtual organisation of the own sub-grid.
#[derive(Debug, Serialize, Deserialize)]
pub struct VoRequest {
    /// Its name.
    pub name: String,
    /// What to do.
    pub what: VoAction,
    /// Who, as users write it: nodes by name or the beginning of their ids, `subgrid`,
    /// `subgrid:ID`, `grid://REGION`.
    pub members: Vec<String>,
}

/// What to do with a virtual organisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VoAction {
    /// Make it.
    Create,
    /// Take in members.
    Add,
    /// Put members out.
    Remove,
    /// End it.
    Dissolve,
}

/// A virtual organisation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VoRow {
    /// The shortest name by which it is known here.
    pub name: String,
    /// Its name with its owner, `NAME@ID`: by that one everybody knows it.
    pub full_name: String,
    /// The sub-grid that says who is in it.
    pub owner: SubgridId,
    /// Which version counts here.
    pub version: u64,
    /// When that was signed, in seconds since 1970.
    pub signed_unix_s: u64,
    /// Who is in it, as users write it.
    pub members: Vec<String>,
    /// Names of the nodes of this sub-grid that are in it.
    pub nodes: Vec<String>,
    /// Whether this node is.
    pub this: bool,
}

/// `POST /v1/invite`.
#[derive(Debug, Serialize, Deserialize)]
pub struct InviteRequest {
    /// How long the token is good for, in seconds.
    pub ttl_s: u64,
}

/// Answer to [`InviteRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct InviteReply {
    /// What to give to `phantom up --join`.
    pub token: String,
}

/// `POST /v1/apps/APP/migrate`.
#[derive(Debug, Serialize, Deserialize)]
pub struct MigrateRequest {
    /// Name or id of the target; the best one when absent.
    pub node: Option<String>,
}

/// One line of an app's life.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TimelineRow {
    /// Microseconds since 1970.
    pub at_unix_us: u64,
    /// What happened: `crossing`, `verdict`, `choice`, a step of the hand-off, …
    pub event: String,
    /// In words.
    pub detail: String,
}

/// Answer to [`MigrateRequest`].
#[derive(Debug, Serialize, Deserialize)]
pub struct MigrateReply {
    /// The app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// Name of the node it left.
    pub from: String,
    /// Name of the node it runs on now.
    pub to: String,
    /// From the freeze to the resume, milliseconds.
    pub frozen_ms: f64,
    /// Size of the image, bytes.
    pub image_bytes: u64,
}

/// One node an app could move to, or why not.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CandidateRow {
    /// Its name.
    pub name: String,
    /// Idle hundredths of a core.
    pub idle_centicores: u32,
    /// Its rank, 0 to 1, when it can take the app.
    pub rank: Option<f64>,
    /// The figures behind it, in words.
    pub weight: Option<String>,
    /// Why it cannot host the app; `None` when it can.
    pub refused: Option<String>,
}

/// Answer to `GET /v1/apps/APP/explain`.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExplainReply {
    /// The app.
    pub app: AppId,
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub host: String,
    /// Whether it could move now.
    pub movable: bool,
    /// Where it would go.
    pub target: Option<String>,
    /// What prevents a move, each a line.
    pub obstacles: Vec<String>,
    /// What the user should know about a move, each a line.
    pub notes: Vec<String>,
    /// All other members.
    pub candidates: Vec<CandidateRow>,
    /// The latest verdict, in words.
    pub verdict: Option<String>,
}

/// `POST /v1/why`.
#[derive(Debug, Serialize, Deserialize)]
pub struct WhyRequest {
    /// An app of the caller's, or a ClassAd expression.
    pub of: String,
}

/// Answer to `POST /v1/why`.
#[derive(Debug, Serialize, Deserialize)]
pub struct WhyReply {
    /// The app, where one was asked for.
    pub app: Option<WhyApp>,
    /// What it asks of nodes, or the expression, and what that comes to.
    #[serde(flatten)]
    pub diagnosis: Diagnosis,
    /// Who has answered: the super-peer's name. Absent where this node said what it knows itself.
    pub by: Option<String>,
}

/// An app, and what would become of it now.
#[derive(Debug, Serialize, Deserialize)]
pub struct WhyApp {
    /// Its name.
    pub name: String,
    /// Where it runs.
    pub host: String,
    /// Where it would go.
    pub goes: Option<String>,
    /// Why, in one line.
    pub decision: String,
    /// What prevents a move whatever the node, each a line.
    pub obstacles: Vec<String>,
}

/// Which of the things that must all be true fail on how many nodes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Diagnosis {
    /// How many nodes were looked at; of an app, all but the one it is on.
    pub nodes: usize,
    /// On how many all is true.
    pub matching: usize,
    /// Names of some of those.
    pub names: Vec<String>,
    /// What must be true.
    pub parts: Vec<WhyPart>,
    /// Without which of the parts more would match, what helps most first.
    pub helps: Vec<WhyHelp>,
    /// Names in it that no node has.
    pub unknown: Vec<UnknownName>,
}

/// One of the things that must all be true.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyPart {
    /// What it asks: an expression, or words.
    pub asks: String,
    /// On how many nodes it is true.
    pub holds: usize,
    /// On how many it is false.
    pub fails: usize,
    /// On how many it is UNDEFINED: something is not known of them.
    pub undefined: usize,
    /// On how many it is an ERROR.
    pub error: usize,
    /// Of some nodes on which it is not true, why; each a line that begins with the name.
    pub reasons: Vec<String>,
    /// The least change that would help, of a comparison.
    pub instead: Option<WhyInstead>,
}

/// A comparison that more nodes meet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyInstead {
    /// What would be asked.
    pub asks: String,
    /// On how many nodes that is true.
    pub holds: usize,
    /// How many nodes would match in all.
    pub matching: usize,
}

/// Parts without which more nodes would match.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WhyHelp {
    /// One or two places in [`Diagnosis::parts`].
    pub without: Vec<usize>,
    /// How many nodes would match in all.
    pub matching: usize,
}

/// A name that no node has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct UnknownName {
    /// As it was written.
    pub name: String,
    /// One that is alike.
    pub like: Option<String>,
}

/// `POST /v1/apps/APP/kill`.
#[derive(Debug, Serialize, Deserialize)]
pub struct KillRequest {
    /// Signal number; SIGTERM when absent.
    pub signal: Option<i32>,
}

/// `POST /v1/qos` and its answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct QosState {
    /// Whether the monitor is attached.
    pub on: bool,
    /// Programs it has in the kernel.
    pub programs: usize,
    /// For how much of the last ten seconds, in percent, programs on this machine waited for a CPU,
    /// for memory, for a disk; absent where the kernel does not say.
    pub pressure: Option<[f64; 3]>,
    /// Programs that Phantom did not start and that exceed a limit of a `[[watch]]`, each a line.
    pub watched: Vec<String>,
}

/// Every refusal.
#[derive(Debug, Serialize, Deserialize)]
pub struct ErrorReply {
    /// One line: what was wrong, with what, what to do.
    pub error: String,
    /// Whether the caller used it wrongly (exit code 2) or it failed (1).
    pub usage: bool,
}

//! Everything that can go wrong, in words for the user.

use std::path::PathBuf;
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use thiserror::Error;

use crate::bulk::BulkError;
use crate::link::LinkError;
use crate::member::{CertificateError, Code, JoinRefusal, TokenError, VoError};
use crate::region::RegistrationError;
use crate::store::StoreError;
use crate::wire::FrameError;

/// A key file that cannot be used.
#[derive(Debug, Error)]
pub enum KeyError {
    /// It cannot be read.
    #[error("cannot read the key {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be made.
    #[error("cannot write the key {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others than its owner can read it.
    #[error("the key {} can be read by others (mode {mode:o}): run `chmod 600 {}`, and if others may have read it remove it and join again", .path.display(), .path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Others than its owner can read the key of a region.
    #[error("the key {} can be read by others (mode {mode:o}): run `chmod 600 {}`, and if others may have read it give the region another key", .path.display(), .path.display())]
    ExposedRegion {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds no key of a region.
    #[error("{} holds no region's key: restore it from a copy, or remove it (the region will then be a new one, and its sites must register again)", .path.display())]
    MalformedRegion {
        /// The file.
        path: PathBuf,
    },
    /// No region can have that name.
    #[error(
        "{0:?} is not the name of a region: write a domain name in lower case, as campus.example.org"
    )]
    RegionName(String),
    /// It holds no key.
    #[error("{} holds no Phantom key: restore it from a copy, or remove it (the node will then be a new one and must join again)", .path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// What an operation of [`crate::Network`] failed on.
#[derive(Debug, Error)]
pub enum Error {
    /// A key file cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The UDP (or TCP, for bulk) port cannot be had.
    #[error(
        "cannot listen on {addr}: {reason}; choose another port with `listen` in the configuration, or stop what uses this one"
    )]
    Bind {
        /// What was to be bound.
        addr: String,
        /// Why not.
        reason: String,
    },
    /// The configured relay is not a URL.
    #[error("`relay_url` in the configuration, `{url}`, is not the URL of a relay: {reason}")]
    Relay {
        /// What was configured.
        url: String,
        /// Why not.
        reason: String,
    },
    /// The certificates for the relay cannot be had.
    #[error("cannot use the file that `relay_ca` in the configuration names, {}: {reason}", .file.display())]
    RelayCa {
        /// The file.
        file: PathBuf,
        /// Why not.
        reason: String,
    },
    /// The inviter may only be reachable by way of a relay this node does not use.
    #[error(
        "{source}. The invitation also leads through a relay: if the machines cannot reach each other directly, set `relay_url = \"{url}\"` in this machine's configuration, restart its daemon and try again"
    )]
    NeedsRelay {
        /// Its URL.
        url: String,
        /// What happened without.
        source: Box<Error>,
    },
    /// Membership cannot be read or recorded.
    #[error("cannot {what} in the node's store: {source}")]
    Store {
        /// What was to be done.
        what: &'static str,
        /// Why not.
        source: StoreError,
    },
    /// What the store holds makes no sense.
    #[error(
        "the node's store holds a damaged {what}: restore it from a copy, or remove the node's state and join again"
    )]
    Damaged {
        /// Which entry.
        what: &'static str,
    },
    /// The node belongs to no sub-grid.
    #[error(
        "this node belongs to no sub-grid yet: run `phantom up` to found one, or `phantom up --join TOKEN`"
    )]
    NotMember,
    /// The node is a member no more, by its own wish.
    #[error("the node has left the sub-grid")]
    Left,
    /// What the store says of the membership is not true.
    #[error("this node takes part in no sub-grid, because what its store says does not hold: {0}")]
    FalseMember(CertificateError),
    /// The node belongs to a sub-grid already.
    #[error(
        "this node already belongs to sub-grid {} as `{name}`; `phantom leave` ends that",
        .subgrid.short()
    )]
    AlreadyMember {
        /// Which.
        subgrid: SubgridId,
        /// Under which name.
        name: String,
    },
    /// This node may let nobody in.
    #[error(
        "this node may not let others in: do it on {who}; who holds the sub-grid's key can give this node the right with `phantom delegate`"
    )]
    MayNotAccept {
        /// Which nodes may, in words.
        who: String,
    },
    /// Only the holder of the sub-grid's key may.
    #[error("this takes the sub-grid's key, which the node has that founded it: run it there")]
    NotHolder,
    /// The policy document is too long.
    #[error(
        "the policy document has {bytes} bytes, and at most {} are allowed",
        crate::member::MAX_DOCUMENT
    )]
    LongPolicy {
        /// Its length.
        bytes: usize,
    },
    /// Somebody else was quicker.
    #[error(
        "version {seen} of the policy was edited, but version {version} counts by now: look at it with `phantom policy show` and edit that"
    )]
    StalePolicy {
        /// The version that was edited.
        seen: u64,
        /// The version that counts.
        version: u64,
    },
    /// A delegation cannot be taken from who has none.
    #[error("node {} has no right to let others in that could be taken from it", .0.short())]
    NoDelegate(NodeId),
    /// Nobody puts himself out.
    #[error("this node cannot remove itself: `phantom leave` makes it forget the sub-grid")]
    OwnRemoval,
    /// Whoever asked to be let in cannot be.
    #[error("it cannot be let in: {0}")]
    CannotLetIn(JoinRefusal),
    /// Nobody with that code waits.
    #[error(
        "no machine with the code {0} waits to be let in: `phantom requests` lists those that do"
    )]
    NoRequest(Code),
    /// The node knows no address others could dial.
    #[error(
        "this machine has no network address that another could reach: connect it to a network, or set `advertise` in the configuration"
    )]
    NoOwnAddress,
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The inviter said no.
    #[error("node {} refused: {refusal}", .inviter.short())]
    Refused {
        /// Who.
        inviter: NodeId,
        /// Why.
        refusal: JoinRefusal,
    },
    /// A certificate does not hold.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// A registration with a region cannot be made.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// A virtual organisation cannot be changed, or its document does not count.
    #[error(transparent)]
    Vo(#[from] VoError),
    /// No member has this id.
    #[error("node {} is no member of this sub-grid: `phantom nodes` lists them", .0.short())]
    UnknownPeer(NodeId),
    /// The peer could not be reached in time.
    #[error("cannot reach node {} within {after:?}: {reason}", .peer.short())]
    Unreachable {
        /// Which.
        peer: NodeId,
        /// How long it was tried.
        after: Duration,
        /// The last thing that went wrong.
        reason: String,
    },
    /// The connection ended while something was under way.
    #[error("the connection to node {} ended during {what}: {source}", .peer.short())]
    Cut {
        /// Which.
        peer: NodeId,
        /// What was under way.
        what: &'static str,
        /// Why it ended.
        source: LinkError,
    },
    /// The peer sent something that is not what the protocol says.
    #[error("node {} broke the protocol during {what}: {source}", .peer.short())]
    Protocol {
        /// Which.
        peer: NodeId,
        /// What was under way.
        what: &'static str,
        /// How.
        source: FrameError,
    },
    /// Something took too long.
    #[error("node {} did not finish {what} within {after:?}", .peer.short())]
    Deadline {
        /// Which.
        peer: NodeId,
        /// What was under way.
        what: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// A node of another sub-grid than was looked for.
    #[error(
        "node {} is a member of sub-grid {}, not of {}: ask again where that sub-grid is to be found",
        .peer.short(), .shown.short(), .wanted.short()
    )]
    OtherSubgrid {
        /// Which node.
        peer: NodeId,
        /// The sub-grid it was taken for a member of.
        wanted: SubgridId,
        /// The sub-grid whose certificate it has shown.
        shown: SubgridId,
    },
    /// A message to another sub-grid is too long.
    #[error(
        "a message of {bytes} bytes is too long for another sub-grid, which takes at most {}: send less at once",
        crate::abroad::MAX_ABROAD
    )]
    LongMessage {
        /// Its length.
        bytes: usize,
    },
    /// A node that was to be dialled is this one.
    #[error("this node cannot dial itself: leave it out of those to be told")]
    OwnContact,
    /// A bulk transfer failed.
    #[error(transparent)]
    Bulk(#[from] BulkError),
    /// The network has been shut down.
    #[error("the node is shutting down")]
    ShutDown,
}

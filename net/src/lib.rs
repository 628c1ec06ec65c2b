//! Node identity, membership and authenticated connections.
//!
//! A node is an Ed25519 key. A sub-grid is another: it signs the certificates of its members. A
//! node becomes a member by [founding](Network::found) a sub-grid or by [joining](Network::join)
//! one: with a one-time [`Token`] that a member [made](Network::invite), or by
//! [asking](Network::ask), which shows a code on both sides and waits until it is
//! [accepted](Network::accept_request). From then on members find each other by the addresses they know,
//! prove their keys and show their certificates on every connection, and open streams to each
//! other's services.
//!
//! ```text
//!  nothing ──found──> founder ──invite──> Token ┐
//!  nothing ──join(Token)──> member <────────────┘
//!  nothing ──ask──> waiting, code shown ──accept there──> member
//!
//!  a peer:   Unknown ──dial──> Connecting ──certificates──> Connected
//!               ^                  │ failed                    │ silent, closed, expired, removed
//!               │                  v                           v
//!               └────── dial ── Unreachable{reason} <──────────┘
//! ```
//!
//! The founder holds the sub-grid's key. It makes [delegates](Network::delegate) of nodes that may
//! let others in and [remove](Network::remove) them as well. Certificates, delegations and removals
//! are proof in themselves and spread over every connection; see [`member`] for what counts when
//! they contradict each other.
//!
//! What holds:
//! - No outside server is contacted. A relay is used only when the node's own configuration names
//!   it, whatever others say.
//! - A stranger gets the join exchange and nothing else; on every other connection certificates
//!   come first, and until then the other side cannot even open a second stream. Expiry is
//!   checked on live connections too.
//! - An invitation is good for one node. It is recorded as used, with the certificate, before the
//!   certificate is sent: the same node may ask again and gets the same one.
//! - Everything read from another node is bounded, every wait has a deadline.
//! - One connection per peer; when both dial at once both keep the same one. A peer that is gone
//!   is known to be after [`config::Timing::silent`] where streams are open, and after
//!   [`config::Timing::doubted`] when whoever watches the members says so; connections are made again
//!   as needed. One that nobody uses says seldom that it lives.
//! - Bulk data has its own lanes, see [`bulk`].
//! - Nodes of other sub-grids get answers of their own kind and nothing else, see [`abroad`].
//!
//! - Whoever is removed is parted from as soon as the removal is heard.
//!
//! Virtual organisations ([`member::Vo`]) are documents of the sub-grid that owns them, sealed by
//! whoever may let others in, and spread the same way; those of other sub-grids are carried too.
//!
//! A certificate holds a year. Who may let others in renews those of members it knows in the last
//! two months; a member whose certificate is over joins again.
//!
//! Asking trusts whoever answers first: the codes tell the person at the asked side whom he lets
//! in. A joiner that was answered by somebody else's sub-grid sees that its code is not among the
//! requests, and leaves.
//!
//! Deliberately absent: finding a first member ([`Network::ask`] is given one), and datagrams.
//!
//! | module | |
//! |---|---|
//! | [`key`] | secret keys on disk |
//! | [`member`] | certificates, tokens, the decision about a join; pure |
//! | [`region`] | keys of regions and what is signed with them; pure but for the key files |
//! | [`link`] | connections between proven keys: the trait, QUIC, a fake |
//! | [`bulk`] | bulk transfers |
//! | [`abroad`] | messages between nodes of different sub-grids |
//! | [`network`](Network) | what the node uses |

pub mod abroad;
mod book;
pub mod bulk;
pub mod config;
pub mod error;
mod join;
pub mod key;
pub mod link;
pub mod member;
mod network;
mod peer;
pub mod region;
mod service;
pub mod store;
pub mod wire;

pub use abroad::{Contact, Foreign, MAX_ABROAD, Proven};
pub use book::{Membership, VoChange};
pub use bulk::{
    BulkError, BulkOptions, BulkPath, BulkReceiver, BulkReport, BulkSender, BulkTicket, Extent,
    ExtentSink,
};
pub use config::Config;
pub use error::Error;
pub use join::request::{Asked, Asking};
pub use key::NodeKey;
pub use link::{PeerAddr, RecvStream, RelayStatus, SendStream, Stream};
pub use member::{Code, Member, Request, Token};
pub use network::Network;
pub use peer::{PeerState, PeerStatus};
pub use region::{Charter, RegionKey, Registration, Rotation};
pub use service::{Incoming, ServiceId};
pub use store::{FileStore, MemoryStore, Store};

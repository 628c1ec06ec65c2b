//! Node identity, membership and authenticated connections.
//!
//! A node is an Ed25519 key. A sub-grid is another: it signs the certificates of its members. A
//! node becomes a member by [founding](Network::found) a sub-grid or by [joining](Network::join)
//! one with a one-time [`Token`] that the founder [made](Network::invite). From then on members
//! find each other by the addresses they know, prove their keys and show their certificates on
//! every connection, and open streams to each other's services.
//!
//! ```text
//!  nothing ──found──> founder ──invite──> Token ┐
//!  nothing ──join(Token)──> member <────────────┘
//!
//!  a peer:   Unknown ──dial──> Connecting ──certificates──> Connected
//!               ^                  │ failed                    │ silent, closed, expired
//!               │                  v                           v
//!               └────── dial ── Unreachable{reason} <──────────┘
//! ```
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
//!   is known to be after [`config::Timing::idle`]; connections are made again as needed.
//! - Bulk data has its own lanes, see [`bulk`].
//!
//! A certificate holds a year. The founder renews its own when it starts in the last months of it;
//! a member whose certificate is over joins again.
//!
//! Deliberately absent: revocation of certificates (it comes with the registry), invitations by other members than the founder, discovery on the
//! local network, and datagrams.
//!
//! | module | |
//! |---|---|
//! | [`key`] | secret keys on disk |
//! | [`member`] | certificates, tokens, the decision about a join; pure |
//! | [`link`] | connections between proven keys: the trait, QUIC, a fake |
//! | [`bulk`] | bulk transfers |
//! | [`network`](Network) | what the node uses |

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
mod service;
pub mod store;
pub mod wire;

pub use book::Membership;
pub use bulk::{
    BulkError, BulkOptions, BulkPath, BulkReceiver, BulkReport, BulkSender, BulkTicket, Extent,
    ExtentSink,
};
pub use config::Config;
pub use error::Error;
pub use key::NodeKey;
pub use link::{PeerAddr, RecvStream, RelayStatus, SendStream, Stream};
pub use member::{Member, Token};
pub use network::Network;
pub use peer::{PeerState, PeerStatus};
pub use service::{Incoming, ServiceId};
pub use store::{FileStore, MemoryStore, Store};

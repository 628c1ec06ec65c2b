//! Asking to be let in without a token: the code both sides show, and who waits for an answer.
//!
//! ```text
//!  joiner                                        asked member
//!    │ ── commitment to a nonce ───────────────────> │  a place on the desk, or no room
//!    │ <── its own nonce ─────────────────────────── │
//!    │ ── the nonce committed to ──────────────────> │  fits the commitment?
//!    │          both show the same code              │
//!    │ <── certificate, once its owner has accepted ─│
//! ```
//!
//! Somebody between the two has other keys than they and so another code on each side, unless he
//! guesses: the commitment comes before the nonce it must fit, so he has one guess in a million
//! for each exchange (as in RFC 6189, section 4.4.1.1), and the desk bounds how many there are.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::str::FromStr;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};

use super::{JoinRefusal, valid_name};
use crate::link::PeerAddr;

/// How long a request stands after its node was last heard.
pub const REQUEST_S: u64 = 600;
/// How long it stands at all: who asks and is not answered within it, asks anew.
const STANDS_S: u64 = 3600;
/// Requests that may wait at once.
const MAX_WAITING: usize = 32;
/// Exchanges of nonces within [`REQUEST_S`], over all and from one source.
const MAX_EXCHANGES: usize = 64;
const MAX_FROM_ONE: usize = 8;

/// What a joiner binds itself to before it knows the nonce of the other side.
pub fn commitment(nonce: &[u8; 16], joiner: NodeId, asked: NodeId) -> [u8; 32] {
    let key = blake3::derive_key("phantom join commitment 1", nonce);
    let mut hasher = blake3::Hasher::new_keyed(&key);
    hasher.update(&joiner.0).update(&asked.0);
    *hasher.finalize().as_bytes()
}

/// Six digits that two people compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Code(u32);

impl Code {
    /// The code of one exchange, the same on both sides only if both know the same keys.
    pub fn of(
        subgrid: SubgridId,
        asked: NodeId,
        joiner: NodeId,
        asked_nonce: &[u8; 16],
        joiner_nonce: &[u8; 16],
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("phantom join code 1");
        hasher.update(&subgrid.0).update(&asked.0).update(&joiner.0);
        hasher.update(asked_nonce).update(joiner_nonce);
        let mut number = [0; 8];
        hasher.finalize_xof().fill(&mut number);
        // The bias of the remainder is below one part in 10^12.
        Self((u64::from_le_bytes(number) % 1_000_000) as u32)
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03} {:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// A text that is not a code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a code: it has six digits, as in `482 913`; `phantom requests` lists them")]
pub struct CodeError(String);

impl FromStr for Code {
    type Err = CodeError;

    fn from_str(text: &str) -> Result<Self, CodeError> {
        let digits: String = text.chars().filter(|c| !matches!(c, ' ' | '-')).collect();
        let wrong = || CodeError(text.chars().take(40).collect());
        if digits.len() != 6 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(wrong());
        }
        digits.parse().map(Self).map_err(|_| wrong())
    }
}

impl TryFrom<String> for Code {
    type Error = CodeError;

    fn try_from(text: String) -> Result<Self, CodeError> {
        text.parse()
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.to_string()
    }
}

/// What a joiner says first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// [`commitment`] to the nonce that follows.
    pub commitment: [u8; 32],
    /// The name the joiner would like.
    pub name: String,
    /// Where the joiner can be reached.
    pub addrs: Vec<PeerAddr>,
    /// What the joiner's clock says, in seconds since 1970.
    pub now: u64,
}

/// A node that waits to be let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Its proven key.
    pub node: NodeId,
    /// What it wants to be called.
    pub name: String,
    /// The code it shows as well.
    pub code: Code,
    /// Where it asks from.
    pub from: Option<PeerAddr>,
    /// When it first asked, in seconds since 1970.
    pub since: u64,
    /// Where it can be reached.
    pub addrs: Vec<PeerAddr>,
}

#[derive(Debug, Clone)]
struct Entry {
    opening: Opening,
    nonce: [u8; 16],
    from: Option<PeerAddr>,
    since: u64,
    heard: u64,
    code: Option<Code>,
    denied: bool,
    /// Counts the connections over which it has asked: the latest is the one to answer.
    turn: u64,
}

/// Who waits to be let in at one node. Bounded, whatever comes.
#[derive(Debug, Default)]
pub struct Desk {
    entries: BTreeMap<NodeId, Entry>,
    /// When and from where nonces were exchanged lately.
    exchanges: VecDeque<(u64, Source)>,
    turns: u64,
}

/// Whom exchanges are counted for: a machine can have any number of keys, and of addresses within
/// its IPv6 network.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Source(Vec<u8>);

impl Source {
    fn of(from: Option<&PeerAddr>) -> Self {
        Self(match from {
            Some(PeerAddr::Ip(addr)) => match addr.ip().to_canonical() {
                std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
                std::net::IpAddr::V6(ip) => ip.octets()[..8].to_vec(),
            },
            // Whoever comes over a relay shares its share.
            Some(PeerAddr::Relay(_)) => b"relay".to_vec(),
            None => Vec::new(),
        })
    }
}

impl Desk {
    /// A joiner has asked. Gives the nonce to answer with, which is `fresh` unless the same
    /// question was put before, and the turn of this connection.
    ///
    /// # Errors
    /// The clocks are too far apart, its name is none, it was denied, or there is no room.
    pub fn open(
        &mut self,
        joiner: NodeId,
        opening: Opening,
        from: Option<PeerAddr>,
        fresh: [u8; 16],
        now: u64,
    ) -> Result<([u8; 16], u64), JoinRefusal> {
        if opening.now.abs_diff(now) > super::CLOCK_SKEW_S {
            return Err(JoinRefusal::Clock { ours: now, theirs: opening.now });
        }
        if !valid_name(&opening.name) {
            return Err(JoinRefusal::Name);
        }
        self.sweep(now);
        self.turns += 1;
        let turn = self.turns;
        if let Some(entry) = self.entries.get_mut(&joiner) {
            if entry.denied {
                return Err(JoinRefusal::Denied);
            }
            if entry.opening.commitment == opening.commitment {
                (entry.heard, entry.turn, entry.opening) = (now, turn, opening);
                return Ok((entry.nonce, turn));
            }
        }
        let source = Source::of(from.as_ref());
        let from_it = self.exchanges.iter().filter(|(_, other)| *other == source).count();
        let full = self.entries.len() >= MAX_WAITING && !self.entries.contains_key(&joiner);
        if full || from_it >= MAX_FROM_ONE || self.exchanges.len() >= MAX_EXCHANGES {
            return Err(JoinRefusal::Crowded);
        }
        self.exchanges.push_back((now, source));
        let entry = Entry {
            opening,
            nonce: fresh,
            from,
            since: now,
            heard: now,
            code: None,
            denied: false,
            turn,
        };
        self.entries.insert(joiner, entry);
        Ok((fresh, turn))
    }

    /// The joiner has shown the nonce it committed to: the code of the exchange.
    ///
    /// # Errors
    /// It is not the one committed to.
    pub fn reveal(
        &mut self,
        joiner: NodeId,
        nonce: &[u8; 16],
        asked: NodeId,
        subgrid: SubgridId,
    ) -> Result<Code, JoinRefusal> {
        let entry = self.entries.get_mut(&joiner).ok_or(JoinRefusal::Unproven)?;
        if commitment(nonce, joiner, asked) != entry.opening.commitment {
            return Err(JoinRefusal::Unproven);
        }
        let code = Code::of(subgrid, asked, joiner, &entry.nonce, nonce);
        entry.code = Some(code);
        Ok(code)
    }

    /// Whether the connection of that turn is still the one over which `joiner` waits; `Err` when
    /// it was denied or its time is over.
    ///
    /// # Errors
    /// Why it waits no more.
    pub fn waits(&mut self, joiner: NodeId, turn: u64, now: u64) -> Result<bool, JoinRefusal> {
        self.sweep(now);
        let entry = self.entries.get_mut(&joiner).ok_or(JoinRefusal::Unanswered)?;
        if entry.denied {
            return Err(JoinRefusal::Denied);
        }
        entry.heard = now;
        Ok(entry.turn == turn)
    }

    /// Those that wait for an answer, oldest first.
    pub fn requests(&mut self, now: u64) -> Vec<Request> {
        self.sweep(now);
        let waiting = self.entries.iter().filter(|(_, entry)| !entry.denied);
        let mut requests: Vec<_> = waiting
            .filter_map(|(node, entry)| {
                Some(Request {
                    node: *node,
                    name: entry.opening.name.clone(),
                    code: entry.code?,
                    from: entry.from.clone(),
                    since: entry.since,
                    addrs: entry.opening.addrs.clone(),
                })
            })
            .collect();
        requests.sort_by_key(|request| (request.since, request.node));
        requests
    }

    /// It was let in: it waits no more.
    pub fn close(&mut self, joiner: NodeId) {
        self.entries.remove(&joiner);
    }

    /// It shall not come in; asking again is in vain until [`REQUEST_S`] have gone by.
    pub fn deny(&mut self, joiner: NodeId) {
        if let Some(entry) = self.entries.get_mut(&joiner) {
            entry.denied = true;
        }
    }

    fn sweep(&mut self, now: u64) {
        // A clock that was set back makes nobody wait longer.
        let fresh = |at: u64| now.abs_diff(at) < REQUEST_S;
        self.entries.retain(|_, entry| fresh(entry.heard) && now.abs_diff(entry.since) < STANDS_S);
        self.exchanges.retain(|(at, _)| fresh(*at));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: u64 = 1_800_000_000;
    const ASKED: NodeId = NodeId([9; 32]);
    const GRID: SubgridId = SubgridId([7; 32]);

    fn opening(joiner: NodeId, nonce: [u8; 16]) -> Opening {
        Opening {
            commitment: commitment(&nonce, joiner, ASKED),
            name: "cellar".to_owned(),
            addrs: vec![],
            now: NOW,
        }
    }

    fn from(last: u8) -> Option<PeerAddr> {
        Some(PeerAddr::Ip(([192, 0, 2, last], 41610).into()))
    }

    fn node(number: u32) -> NodeId {
        let mut id = [1; 32];
        id[..4].copy_from_slice(&number.to_le_bytes());
        NodeId(id)
    }

    #[test]
    fn both_sides_have_the_same_code_and_a_retry_keeps_it() {
        let (mut desk, joiner) = (Desk::default(), node(1));
        let nonce = [3; 16];
        let (ours, _) = desk.open(joiner, opening(joiner, nonce), from(1), [4; 16], NOW).unwrap();
        let code = desk.reveal(joiner, &nonce, ASKED, GRID).unwrap();
        assert_eq!(code, Code::of(GRID, ASKED, joiner, &ours, &nonce));
        assert_ne!(code, Code::of(GRID, node(2), joiner, &ours, &nonce), "somebody between");
        let again = desk.open(joiner, opening(joiner, nonce), from(1), [5; 16], NOW + 9).unwrap();
        assert_eq!(again.0, ours);
        assert_eq!(desk.reveal(joiner, &nonce, ASKED, GRID).unwrap(), code);
        assert_eq!(desk.requests(NOW + 9)[0].code, code);
        assert!(!desk.waits(joiner, again.1 - 1, NOW).unwrap(), "the newer connection counts");
        assert!(desk.waits(joiner, again.1, NOW).unwrap());
    }

    #[test]
    fn the_nonce_must_be_the_one_committed_to() {
        let (mut desk, joiner) = (Desk::default(), node(1));
        desk.open(joiner, opening(joiner, [3; 16]), from(1), [4; 16], NOW).unwrap();
        assert_eq!(desk.reveal(joiner, &[2; 16], ASKED, GRID), Err(JoinRefusal::Unproven));
        assert!(desk.requests(NOW).is_empty(), "nothing to accept");
    }

    #[test]
    fn a_denied_node_hears_it_and_a_flood_leaves_room_for_others() {
        let mut desk = Desk::default();
        let mut admitted = 0;
        for number in 0..1000 {
            let joiner = node(number);
            admitted += usize::from(
                desk.open(joiner, opening(joiner, [3; 16]), from(1), [4; 16], NOW).is_ok(),
            );
        }
        assert_eq!(admitted, MAX_FROM_ONE);
        let honest = node(5000);
        desk.open(honest, opening(honest, [3; 16]), from(2), [4; 16], NOW).unwrap();
        desk.reveal(honest, &[3; 16], ASKED, GRID).unwrap();
        desk.deny(honest);
        assert_eq!(
            desk.open(honest, opening(honest, [3; 16]), from(2), [4; 16], NOW),
            Err(JoinRefusal::Denied)
        );
        let late = Opening { now: NOW + REQUEST_S, ..opening(honest, [3; 16]) };
        desk.open(honest, late, from(1), [4; 16], NOW + REQUEST_S).unwrap();
    }

    #[test]
    fn one_key_cannot_draw_codes_until_one_fits() {
        let (mut desk, joiner) = (Desk::default(), node(1));
        let drawn = (0..100u8).filter(|draw| {
            desk.open(joiner, opening(joiner, [*draw; 16]), from(1), [*draw; 16], NOW).is_ok()
        });
        assert_eq!(drawn.count(), MAX_FROM_ONE);
    }

    #[test]
    fn a_clock_an_hour_off_is_named() {
        let (mut desk, joiner) = (Desk::default(), node(1));
        let wrong = Opening { now: NOW + 3600, ..opening(joiner, [3; 16]) };
        assert_eq!(
            desk.open(joiner, wrong, from(1), [4; 16], NOW),
            Err(JoinRefusal::Clock { ours: NOW, theirs: NOW + 3600 })
        );
    }

    #[test]
    fn codes_read_as_people_type_them() {
        for text in ["482913", "482 913", " 482-913 "] {
            assert_eq!(text.parse::<Code>().unwrap().to_string(), "482 913");
        }
        assert_eq!("000007".parse::<Code>().unwrap().to_string(), "000 007");
        for text in ["", "48291", "4829133", "48291x", "+82913"] {
            assert!(text.parse::<Code>().unwrap_err().to_string().contains("six digits"), "{text}");
        }
    }

    proptest! {
        #[test]
        fn the_desk_stays_bounded(asks in proptest::collection::vec(
            (0u32..2000, any::<u8>(), 0u8..40, 0u64..2000), 0..600)) {
            let mut desk = Desk::default();
            for (number, nonce, source, later) in asks {
                let (joiner, now) = (node(number), NOW + later);
                let opening = Opening { now, ..opening(joiner, [nonce; 16]) };
                let _ = desk.open(joiner, opening, from(source), [nonce; 16], now);
                prop_assert!(desk.entries.len() <= MAX_WAITING);
                prop_assert!(desk.exchanges.len() <= MAX_EXCHANGES);
            }
        }
    }
}

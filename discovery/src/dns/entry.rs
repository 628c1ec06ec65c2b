//! What a region publishes in the DNS, and how it is read back.
//!
//! ```text
//!  _phantom._udp.NAME  URI  10 1 "phantom://peer.example.org:7777/?also=192.0.2.7&key=…&node=…&at=3.41"
//!  or, where the zone's host knows no URI records (RFC 7553):
//!  _phantom._udp.NAME  SRV  10 1 7777 peer.example.org.
//!                      TXT  "v=phantom1" "also=192.0.2.7" "key=…" "node=…" "at=3.41"
//! ```
//!
//! `key` is the region's public key and `node` the region-peer's id, 64 hexadecimal digits each;
//! `at` the mandate under which it was written; `rotated` (up to [`MAX_PROOFS`] times, base 32) a
//! statement by an earlier key that this one follows it; `also` a further host name or address. All
//! addresses share the port. In TXT `also` carries the addresses, which SRV cannot; an SRV target
//! that is the region's name then stands for nothing.
//!
//! What holds: an [`Entry`] can be written in both forms and is read back from either. What is read
//! is bounded; fields that nobody knows are passed over, so that later versions may add some.

mod error;
mod fields;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use data_encoding::{BASE32_NOPAD, HEXLOWER};
use phantom_model::NodeId;
use serde::{Deserialize, Serialize};

use crate::machine::Mandate;
use crate::uri::{GridUri, is_host, short};
pub use error::EntryError;
use fields::{Fields, PROOF, number};

/// The type of URI records (RFC 7553).
pub const URI_TYPE: u16 = 256;
/// No target of a URI record, and no TXT record, is longer, in bytes.
pub const MAX_TARGET: usize = 1024;
/// An entry has no more host names and addresses.
pub const MAX_HOSTS: usize = 8;
/// No more records of one type are looked at.
pub const MAX_RECORDS: usize = 16;
/// An entry has no more statements of earlier keys.
pub const MAX_PROOFS: usize = 3;
/// No such statement is longer, in bytes: in base 32 it fits a string of a TXT record.
pub const MAX_PROOF: usize = 128;
const MAX_FIELDS: usize = 32;
const SCHEME: &str = "phantom://";
const VERSION: &str = "v=phantom1";
/// A region has one region-peer: neither matters, and others may be put before and after.
const PRIORITY: u16 = 10;
const WEIGHT: u16 = 1;

/// Where a region-peer is reached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// At this address.
    Ip(IpAddr),
    /// At the addresses of this host name, in A-labels and lower case.
    Name(String),
}

impl Host {
    fn parse(text: &str) -> Result<Self, EntryError> {
        let wrong = || EntryError::Host { text: short(text) };
        match text.parse::<IpAddr>() {
            Ok(ip) if is_of_a_node(ip) => Ok(Host::Ip(ip)),
            Ok(_) => Err(wrong()),
            Err(_) if is_host(text) => Ok(Host::Name(text.to_owned())),
            Err(_) => Err(wrong()),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Host::Ip(ip) => ip.fmt(f),
            Host::Name(name) => name.fmt(f),
        }
    }
}

fn is_of_a_node(ip: IpAddr) -> bool {
    !(ip.is_unspecified() || ip.is_multicast() || ip == IpAddr::from([255; 4]))
}

/// What a region tells of itself. Stored as the target of its URI record.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Entry {
    hosts: Vec<Host>,
    port: u16,
    key: [u8; 32],
    node: NodeId,
    at: Mandate,
    rotated: Vec<Vec<u8>>,
}

/// An entry as it was found, with the order of preference its record gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// Lower ones go first (RFC 7553, 4.2).
    pub priority: u16,
    /// Of the same priority, higher ones go first.
    pub weight: u16,
    /// What it says.
    pub entry: Entry,
}

/// An SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Srv {
    /// Lower ones go first.
    pub priority: u16,
    /// Of the same priority, higher ones go first.
    pub weight: u16,
    /// The port.
    pub port: u16,
    /// The host name, with or without the dot at its end.
    pub target: String,
}

/// All records of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Records {
    /// The data of the URI record: priority and weight, two bytes each, and the target (RFC 7553,
    /// 4.5).
    pub uri: Vec<u8>,
    /// The SRV records: at least one.
    pub srv: Vec<Srv>,
    /// The strings of the TXT record, each of at most 255 bytes.
    pub txt: Vec<String>,
}

impl Entry {
    /// An entry: the region-peer `node` is reached at `hosts` on `port`, speaks for the region with
    /// the public key `key`, and has this mandate. `rotated` are statements of earlier keys.
    ///
    /// # Errors
    /// When there are too few, too many or too long parts, or the same host twice.
    pub fn new(
        hosts: Vec<Host>,
        port: u16,
        key: [u8; 32],
        node: NodeId,
        at: Mandate,
        rotated: Vec<Vec<u8>>,
    ) -> Result<Self, EntryError> {
        if hosts.is_empty() {
            return Err(EntryError::Missing { field: "a host" });
        }
        if hosts.len() > MAX_HOSTS {
            return Err(EntryError::TooMany { what: "hosts", most: MAX_HOSTS });
        }
        if hosts.iter().collect::<BTreeSet<_>>().len() < hosts.len() {
            return Err(EntryError::Twice { field: "a host" });
        }
        for host in &hosts {
            // A name that reads as an address would come back as one.
            if Host::parse(&host.to_string())? != *host {
                return Err(EntryError::Host { text: short(&host.to_string()) });
            }
        }
        if port == 0 {
            return Err(EntryError::Port { text: "0".to_owned() });
        }
        if rotated.len() > MAX_PROOFS {
            return Err(EntryError::TooMany { what: "statements of rotation", most: MAX_PROOFS });
        }
        if rotated.iter().any(|proof| proof.is_empty() || proof.len() > MAX_PROOF) {
            let text = "…".to_owned();
            return Err(EntryError::Field { field: "rotated", text, wanted: PROOF });
        }
        let entry = Self { hosts, port, key, node, at, rotated };
        let bytes = entry.to_target().len();
        if bytes > MAX_TARGET { Err(EntryError::TooLong { bytes }) } else { Ok(entry) }
    }

    /// Host names and addresses, at least one; the first is to be tried first.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The UDP port at all of them.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The region's public key (Ed25519).
    pub fn key(&self) -> [u8; 32] {
        self.key
    }

    /// The region-peer.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The mandate of who has written it.
    pub fn at(&self) -> Mandate {
        self.at
    }

    /// What earlier keys of the region say of this one; unchecked.
    pub fn rotated(&self) -> &[Vec<u8>] {
        &self.rotated
    }

    /// The target of its URI record.
    pub fn to_target(&self) -> String {
        let mut hosts = self.hosts.iter();
        let first = match hosts.next() {
            Some(Host::Ip(IpAddr::V6(ip))) => format!("[{ip}]"),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        let mut fields: Vec<String> = hosts.map(|host| format!("also={host}")).collect();
        fields.extend(self.fields());
        format!("{SCHEME}{first}:{}/?{}", self.port, fields.join("&"))
    }

    /// Reads the target of a URI record.
    ///
    /// # Errors
    /// When it is not an entry.
    pub fn from_target(text: &str) -> Result<Self, EntryError> {
        let form = || EntryError::Form { text: short(text) };
        if text.len() > MAX_TARGET {
            return Err(EntryError::TooLong { bytes: text.len() });
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(form)?;
        let (authority, query) = rest.split_once("/?").ok_or_else(form)?;
        let (host, port) = authority.rsplit_once(':').ok_or_else(form)?;
        let first = match host.strip_prefix('[').map(|inner| inner.strip_suffix(']')) {
            None if !host.contains(':') => Host::parse(host)?,
            Some(Some(inner)) if inner.contains(':') => Host::parse(inner)?,
            _ => return Err(EntryError::Host { text: short(host) }),
        };
        let port = number(port).and_then(|port| u16::try_from(port).ok());
        let port = port.ok_or_else(|| EntryError::Port { text: short(authority) })?;
        let fields = Fields::read(query.split('&'))?;
        let hosts = std::iter::once(first).chain(fields.also).collect();
        fields.rest.entry(hosts, port)
    }

    /// Its records, as they are written for the region `uri`.
    pub fn to_records(&self, uri: &GridUri) -> Records {
        let mut data = [PRIORITY.to_be_bytes(), WEIGHT.to_be_bytes()].concat();
        data.extend(self.to_target().into_bytes());
        let mut txt = vec![VERSION.to_owned()];
        let mut srv = Vec::new();
        for host in &self.hosts {
            match host {
                Host::Name(name) if name != uri.name() => srv.push(name.clone()),
                // Also the region's own name, which stands for nothing beside other hosts.
                host => txt.push(format!("also={host}")),
            }
        }
        if srv.is_empty() {
            srv.push(uri.name().to_owned());
        }
        txt.extend(self.fields());
        let srv = srv.into_iter().zip(PRIORITY..).map(|(target, priority)| Srv {
            priority,
            weight: WEIGHT,
            port: self.port,
            target,
        });
        Records { uri: data, srv: srv.collect(), txt }
    }

    /// What both forms have in common.
    fn fields(&self) -> Vec<String> {
        let mut fields = vec![
            format!("key={}", HEXLOWER.encode(&self.key)),
            format!("node={}", HEXLOWER.encode(&self.node.0)),
            format!("at={}", self.at),
        ];
        let proofs = self.rotated.iter().map(|proof| BASE32_NOPAD.encode(proof));
        fields.extend(proofs.map(|proof| format!("rotated={}", proof.to_ascii_lowercase())));
        fields
    }
}

impl From<Entry> for String {
    fn from(entry: Entry) -> Self {
        entry.to_target()
    }
}

impl TryFrom<String> for Entry {
    type Error = EntryError;

    fn try_from(text: String) -> Result<Self, EntryError> {
        Self::from_target(&text)
    }
}

/// Reads the data of a URI record (RFC 7553, 4.5).
///
/// # Errors
/// When it does not carry an entry.
pub fn read_uri(data: &[u8]) -> Result<Published, EntryError> {
    let (priority, rest) = data.split_first_chunk().ok_or(EntryError::CutOff)?;
    let (weight, target) = rest.split_first_chunk().ok_or(EntryError::CutOff)?;
    if target.len() > MAX_TARGET {
        return Err(EntryError::TooLong { bytes: target.len() });
    }
    let form = || EntryError::Form { text: short(&String::from_utf8_lossy(target)) };
    let text = std::str::from_utf8(target).map_err(|_| form())?;
    Ok(Published {
        priority: u16::from_be_bytes(*priority),
        weight: u16::from_be_bytes(*weight),
        entry: Entry::from_target(text)?,
    })
}

/// Whether a TXT record, given as its strings, is for us: names may have others, and wildcards.
pub fn is_ours<S: AsRef<[u8]>>(txt: &[S]) -> bool {
    txt.first().is_some_and(|first| first.as_ref() == VERSION.as_bytes())
}

/// Reads the entry of the region `uri` from its SRV records and one TXT record, given as its
/// strings.
///
/// # Errors
/// When they do not carry an entry.
pub fn read_srv<S: AsRef<[u8]>>(
    uri: &GridUri,
    srv: &[Srv],
    txt: &[S],
) -> Result<Published, EntryError> {
    if srv.len() > MAX_RECORDS {
        return Err(EntryError::TooMany { what: "SRV records", most: MAX_RECORDS });
    }
    let bytes = txt.iter().map(|text| text.as_ref().len()).sum();
    if bytes > MAX_TARGET {
        return Err(EntryError::TooLong { bytes });
    }
    let mut texts = Vec::new();
    for text in txt.iter().skip(1) {
        let lossy = || short(&String::from_utf8_lossy(text.as_ref()));
        texts.push(
            std::str::from_utf8(text.as_ref()).map_err(|_| EntryError::Form { text: lossy() })?,
        );
    }
    let fields = Fields::read(texts.into_iter())?;
    let mut srv: Vec<&Srv> = srv.iter().collect();
    srv.sort_by_key(|record| (record.priority, u16::MAX - record.weight));
    let Some(first) = srv.first().copied() else {
        return Err(EntryError::Missing { field: "an SRV record" });
    };
    if srv.iter().any(|record| record.port != first.port) {
        return Err(EntryError::Ports);
    }
    let mut hosts = fields.also;
    let addressed = !hosts.is_empty();
    for record in srv {
        let name = record.target.strip_suffix('.').unwrap_or(&record.target).to_ascii_lowercase();
        if !(addressed && name == uri.name()) {
            match Host::parse(&name)? {
                Host::Ip(_) => return Err(EntryError::Host { text: short(&name) }),
                host => hosts.push(host),
            }
        }
    }
    let entry = fields.rest.entry(hosts, first.port)?;
    Ok(Published { priority: first.priority, weight: first.weight, entry })
}

#[cfg(test)]
mod tests;

//! A node's papers as they lie on its disk while its daemon is down, for nodes whose papers are not
//! what they should be.

use std::time::SystemTime;

use anyhow::Context;
use phantom_model::NodeId;
use phantom_net::key::SubgridKey;
use phantom_net::member::{Certificate, Terms};
use phantom_net::{Member, PeerAddr};
use phantom_tests::lab::LabNode;
use redb::{Database, ReadableDatabase, TableDefinition};

const BLOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("blobs-1");
const MEMBERSHIP: &str = "net/membership";

/// The papers of one node.
pub struct Papers(Database);

impl Papers {
    /// Those of `node`, whose daemon does not run.
    pub fn of(node: &LabNode) -> anyhow::Result<Self> {
        let file = node.state_dir().join("state.redb");
        Ok(Self(Database::open(&file).with_context(|| format!("cannot open {}", file.display()))?))
    }

    /// The certificate the node shows.
    pub fn certificate(&self) -> anyhow::Result<Certificate> {
        let read = self.0.begin_read()?;
        let table = read.open_table(BLOBS)?;
        let bytes = table.get(MEMBERSHIP)?.context("no membership")?;
        Ok(postcard::from_bytes(bytes.value())?)
    }

    /// Has it show another.
    pub fn show(&self, certificate: &Certificate) -> anyhow::Result<()> {
        self.put(MEMBERSHIP, &postcard::to_stdvec(certificate)?)
    }

    /// Replaces one text by another of the same length in the certificate it shows.
    pub fn edit(&self, from: &str, to: &str) -> anyhow::Result<()> {
        let mut bytes = postcard::to_stdvec(&self.certificate()?)?;
        let at = bytes.windows(from.len()).position(|text| text == from.as_bytes());
        let at = at.with_context(|| format!("no `{from}` in the certificate"))?;
        bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
        self.put(MEMBERSHIP, &bytes)
    }

    /// Has it believe that `member` is one.
    pub fn believe_in(&self, member: &Member) -> anyhow::Result<()> {
        let key = format!("net/member/{}", member.node());
        self.put(&key, &postcard::to_stdvec(member)?)
    }

    fn put(&self, key: &str, bytes: &[u8]) -> anyhow::Result<()> {
        let write = self.0.begin_write()?;
        write.open_table(BLOBS)?.insert(key, bytes)?;
        Ok(write.commit()?)
    }
}

/// The key of the sub-grid `founder` has founded.
pub fn subgrid_key(founder: &LabNode) -> anyhow::Result<SubgridKey> {
    SubgridKey::load(&founder.state_dir())?.context("no sub-grid was founded here")
}

/// What `key` says about `node`, called `name`: a member until `expires_in_s` seconds from now.
pub fn certify(
    key: &SubgridKey,
    node: NodeId,
    name: &str,
    expires_in_s: i64,
) -> anyhow::Result<Certificate> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let expires = now.saturating_add_signed(expires_in_s);
    let name = name.to_owned();
    let terms = Terms { subgrid: key.id(), node, name, not_before: 0, expires, serial: now + 1 };
    Ok(Certificate::issue(key, terms)?)
}

/// A member and where it is to be found.
pub fn member(certificate: Certificate, addr: &str) -> anyhow::Result<Member> {
    Ok(Member { certificate, addrs: vec![PeerAddr::Ip(addr.parse()?)] })
}

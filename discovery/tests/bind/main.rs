//! Regions in the DNS, against a real BIND 9 (Debian package bind9).

mod between;
mod find;
mod server;
mod update;

use std::net::SocketAddr;
use std::time::Duration;

use phantom_discovery::dns::{Entry, Finder, Host, Primary, Servers, Updater, Verify};
use phantom_discovery::machine::Mandate;
use phantom_discovery::uri::GridUri;
use phantom_model::NodeId;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use server::Bind;

/// Long enough for a busy machine; what is to time out has a shorter one.
const PATIENCE: Duration = Duration::from_secs(20);

/// A region with its key.
struct Region(Ed25519KeyPair);

impl Region {
    fn new(seed: u8) -> Self {
        Self(Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap())
    }

    fn key(&self) -> [u8; 32] {
        self.0.public_key().as_ref().try_into().unwrap()
    }

    /// A statement that the key `new` follows this one.
    fn rotation(&self, new: [u8; 32]) -> Vec<u8> {
        self.0.sign(&statement(&self.key(), &new)).as_ref().to_vec()
    }
}

fn statement(old: &[u8; 32], new: &[u8; 32]) -> Vec<u8> {
    [&b"region key rotation"[..], old, new].concat()
}

/// Checks such statements.
struct Ed25519;

impl Verify for Ed25519 {
    fn rotated(&self, old: &[u8; 32], new: &[u8; 32], proof: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, old).verify(&statement(old, new), proof).is_ok()
    }
}

/// Where chance begins, said for the case that a test fails.
fn seed() -> u64 {
    let given = std::env::var("PHANTOM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random);
    println!("PHANTOM_SEED={seed}");
    seed
}

fn uri(name: &str) -> GridUri {
    format!("grid://{name}").parse().unwrap()
}

fn mandate(generation: u64, term: u64) -> Mandate {
    Mandate { generation, term }
}

/// The entry of a region whose peer is `node`.
fn entry(region: &Region, node: u8, at: Mandate) -> Entry {
    let hosts = vec![Host::Ip([192, 0, 2, node].into()), Host::Name("peer.campus.test".to_owned())];
    Entry::new(hosts, 7777, region.key(), NodeId([node; 32]), at, vec![]).unwrap()
}

fn finder(at: SocketAddr) -> Finder {
    Finder::new(Servers::Given(vec![at]), PATIENCE)
}

fn updater(bind: &Bind) -> Updater {
    Updater::new(&bind.key("campus"), Primary::Given(bind.at), PATIENCE).unwrap()
}

//! Keeps a region's entry in its zone: dynamic updates (RFC 2136) signed with TSIG (RFC 8945).
//!
//! What holds: an update names as prerequisites exactly the records that were seen, of all three
//! types; the server makes it as a whole or not at all. So of two writers that have seen the same
//! one wins, and an update that is sent twice is made once. Reading is signed too: what decides
//! whether this node is deposed comes from who has the key.

mod error;
mod seen;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::entry::Entry;
use super::exchange::{Request, Signer, TYPES, Unusable, exactly, replaced};
use super::finder::{Finder, soa_of};
use super::found::FindError;
use super::key::{MAX_FILE, TsigKey};
use super::trust::Verify;
use crate::uri::GridUri;
pub use error::UpdateError;
pub use seen::Seen;

/// How often an update is sent, in the time there is for it.
const TRIES: u32 = 2;
/// How often the records are looked at again when others have changed them.
const ROUNDS: usize = 4;
/// The port of name servers.
pub const DNS_PORT: u16 = 53;

/// Where updates go.
#[derive(Debug, Clone)]
pub enum Primary {
    /// To this server.
    Given(SocketAddr),
    /// To the server that the zone's SOA record names as its primary.
    Named {
        /// Looks for it.
        finder: Finder,
        /// The server's port, [`DNS_PORT`] unless it is a special one.
        port: u16,
    },
}

/// Writes entries with one key.
#[derive(Clone)]
pub struct Updater {
    key: String,
    signer: Signer,
    primary: Primary,
    deadline: Duration,
    clock: Arc<dyn Fn() -> Duration + Send + Sync>,
}

impl fmt::Debug for Updater {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (key, primary) = (&self.key, &self.primary);
        f.debug_struct("Updater").field("key", key).field("primary", primary).finish()
    }
}

impl Updater {
    /// Reads the key of a file.
    ///
    /// # Errors
    /// When it cannot be read, or is not one key.
    pub async fn read_key(path: &Path) -> Result<TsigKey, UpdateError> {
        let file = path.display().to_string();
        let failed = |why: String| UpdateError::KeyFile { file: file.clone(), why };
        let opened =
            tokio::fs::File::open(path).await.map_err(|error| failed(error.to_string()))?;
        let mut text = String::new();
        let most = u64::try_from(MAX_FILE).unwrap_or(u64::MAX).saturating_add(1);
        let read = opened.take(most).read_to_string(&mut text).await;
        read.map_err(|error| failed(error.to_string()))?;
        Ok(TsigKey::parse(&text, &file)?)
    }

    /// Writes with this key. Each reading and each writing takes at most `deadline`, and twice that
    /// where the server has to be found first.
    ///
    /// # Errors
    /// When the name of the key is none.
    pub fn new(key: &TsigKey, primary: Primary, deadline: Duration) -> Result<Self, UpdateError> {
        let signer = Signer::new(key).ok_or_else(|| UpdateError::KeyFile {
            file: key.name().to_owned(),
            why: "its name is no domain name".to_owned(),
        })?;
        let clock = Arc::new(|| {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            now.unwrap_or_default()
        });
        Ok(Self { key: key.name().to_owned(), signer, primary, deadline, clock })
    }

    /// With another clock: the time since 1970 that goes into signatures.
    #[must_use]
    pub fn with_clock(self, clock: impl Fn() -> Duration + Send + Sync + 'static) -> Self {
        Self { clock: Arc::new(clock), ..self }
    }

    /// What is at the region's name now.
    ///
    /// # Errors
    /// When the zone's server cannot be found or asked, or does not answer as it should.
    pub async fn read(&self, uri: &GridUri) -> Result<Seen, UpdateError> {
        let name = Name::from_ascii(format!("{}.", uri.entry_name()));
        let name = name.map_err(|_| UpdateError::TooLarge { name: uri.entry_name() })?;
        let (servers, zone) = match &self.primary {
            Primary::Given(server) => (vec![*server], None),
            Primary::Named { finder, port } => {
                let why = |why| UpdateError::NoZone { name: uri.entry_name(), why: Box::new(why) };
                let (servers, zone) = named(finder, *port, uri).await.map_err(why)?;
                (servers, Some(zone))
            }
        };
        let share = self.deadline / u32::try_from(servers.len().max(1)).unwrap_or(u32::MAX);
        let mut last = None;
        for server in servers {
            let ends = Instant::now() + share;
            match self.read_at(server, zone.clone(), uri, &name, ends).await {
                Err(error) if error.is_transient() => last = Some(error),
                result => return result,
            }
        }
        Err(last.unwrap_or_else(|| UpdateError::TooLarge { name: uri.entry_name() }))
    }

    async fn read_at(
        &self,
        server: SocketAddr,
        zone: Option<Name>,
        uri: &GridUri,
        name: &Name,
        ends: Instant,
    ) -> Result<Seen, UpdateError> {
        let mut stream = self.connect(server, ends).await?;
        let zone = match zone {
            Some(zone) => zone,
            None => {
                let message =
                    self.query(&mut stream, server, uri, name, RecordType::SOA, ends).await?;
                let all = message.answers.iter().chain(&message.authorities);
                let zone = all.filter_map(|record| soa_of(record, name)).next();
                zone.ok_or_else(|| self.not_authoritative(server, uri))?.0
            }
        };
        let mut records = Vec::new();
        for of in TYPES {
            let message = self.query(&mut stream, server, uri, name, of, ends).await?;
            let here = message.answers.into_iter();
            records.extend(here.filter(|one| one.name == *name && one.record_type() == of));
        }
        Ok(Seen { uri: uri.clone(), server, zone, name: name.clone(), records })
    }

    /// Puts `entry` in the place of what was seen, as a whole or not at all, and tells what is there
    /// then.
    ///
    /// # Errors
    /// When what was seen has a later mandate or another key; when something else is there by now,
    /// which is told; when the server refuses or cannot be asked.
    pub async fn write(
        &self,
        seen: &Seen,
        entry: &Entry,
        verify: &(dyn Verify + Sync),
    ) -> Result<Seen, UpdateError> {
        seen.admits(entry, verify)?;
        let name = seen.uri.entry_name();
        let too_large = || UpdateError::TooLarge { name: name.clone() };
        let written = seen.with(entry).ok_or_else(too_large)?;
        let (prerequisites, changes) =
            (exactly(&seen.name, &seen.records), replaced(&seen.name, &written.records));
        let mut last = None;
        for _ in 0..TRIES {
            let ends = Instant::now() + self.deadline / TRIES;
            let (before, after) = (prerequisites.clone(), changes.clone());
            let request = self.signer.update(&seen.zone, before, after, self.now());
            let request = request.ok_or_else(too_large)?;
            match self.send_update(seen.server, &request, &seen.uri, ends).await {
                Ok(code) => return self.judge(code, seen, written).await,
                Err(error) if error.is_transient() => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(too_large))
    }

    /// Reads and writes until `entry` is there: what others write meanwhile is looked at anew, a few
    /// times.
    ///
    /// # Errors
    /// As for reading and writing.
    pub async fn publish(
        &self,
        uri: &GridUri,
        entry: &Entry,
        verify: &(dyn Verify + Sync),
    ) -> Result<Seen, UpdateError> {
        let mut seen = self.read(uri).await?;
        if seen.with(entry).as_ref() == Some(&seen) {
            return Ok(seen);
        }
        for _ in 1..ROUNDS {
            match self.write(&seen, entry, verify).await {
                Err(UpdateError::Changed(now)) => seen = *now,
                result => return result,
            }
        }
        self.write(&seen, entry, verify).await
    }

    /// What the server's answer to an update means.
    async fn judge(
        &self,
        code: ResponseCode,
        seen: &Seen,
        written: Seen,
    ) -> Result<Seen, UpdateError> {
        let (server, name) = (seen.server, seen.uri.entry_name());
        match code {
            ResponseCode::NoError => Ok(written),
            ResponseCode::NXRRSet
            | ResponseCode::YXRRSet
            | ResponseCode::NXDomain
            | ResponseCode::YXDomain => {
                let ends = Instant::now() + self.deadline;
                let zone = Some(seen.zone.clone());
                let now = self.read_at(server, zone, &seen.uri, &seen.name, ends).await?;
                // An earlier try, whose answer was lost, has been made.
                if now == written { Ok(now) } else { Err(UpdateError::Changed(Box::new(now))) }
            }
            ResponseCode::Refused => {
                Err(UpdateError::Refused { server, key: self.key.clone(), zone: seen.zone() })
            }
            ResponseCode::NotAuth | ResponseCode::NotZone | ResponseCode::NotImp => {
                Err(self.not_authoritative(server, &seen.uri))
            }
            code => Err(UpdateError::Server { server, code: code.to_string(), name }),
        }
    }

    async fn send_update(
        &self,
        server: SocketAddr,
        request: &Request,
        uri: &GridUri,
        ends: Instant,
    ) -> Result<ResponseCode, UpdateError> {
        let mut stream = self.connect(server, ends).await?;
        let message = self.exchange(&mut stream, server, uri, request, ends).await?;
        Ok(message.metadata.response_code)
    }

    async fn query(
        &self,
        stream: &mut TcpStream,
        server: SocketAddr,
        uri: &GridUri,
        name: &Name,
        of: RecordType,
        ends: Instant,
    ) -> Result<Message, UpdateError> {
        let request = self.signer.query(name, of, self.now());
        let request = request.ok_or_else(|| UpdateError::TooLarge { name: uri.entry_name() })?;
        let message = self.exchange(stream, server, uri, &request, ends).await?;
        let alias = |one: &Record| one.name == *name && one.record_type() == RecordType::CNAME;
        match message.metadata.response_code {
            _ if message.answers.iter().any(alias) => {
                Err(UpdateError::Alias { name: uri.entry_name() })
            }
            ResponseCode::NoError | ResponseCode::NXDomain if message.metadata.authoritative => {
                Ok(message)
            }
            ResponseCode::NoError
            | ResponseCode::NXDomain
            | ResponseCode::Refused
            | ResponseCode::NotAuth => Err(self.not_authoritative(server, uri)),
            code => {
                let (code, name) = (code.to_string(), uri.entry_name());
                Err(UpdateError::Server { server, code, name })
            }
        }
    }

    async fn connect(&self, server: SocketAddr, ends: Instant) -> Result<TcpStream, UpdateError> {
        match timeout_at(ends, TcpStream::connect(server)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(UpdateError::Unreachable { server, why: error.to_string() }),
            Err(_) => Err(UpdateError::TimedOut { server, after: self.deadline }),
        }
    }

    /// Sends a request and reads its answer; both have their length before them (RFC 1035, 4.2.2).
    async fn exchange(
        &self,
        stream: &mut TcpStream,
        server: SocketAddr,
        uri: &GridUri,
        request: &Request,
        ends: Instant,
    ) -> Result<Message, UpdateError> {
        let too_large = || UpdateError::TooLarge { name: uri.entry_name() };
        let length = u16::try_from(request.bytes.len()).map_err(|_| too_large())?;
        let framed = [&length.to_be_bytes()[..], &request.bytes].concat();
        let whole = async {
            stream.write_all(&framed).await?;
            let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut bytes).await?;
            Ok::<_, std::io::Error>(bytes)
        };
        let bytes = match timeout_at(ends, whole).await {
            Ok(Ok(bytes)) => bytes,
            Ok(Err(error)) => {
                return Err(UpdateError::Unreachable { server, why: error.to_string() });
            }
            Err(_) => return Err(UpdateError::TimedOut { server, after: self.deadline }),
        };
        let read = self.signer.read(request, &bytes, self.now());
        read.map_err(|why| self.unusable(server, why))
    }

    fn unusable(&self, server: SocketAddr, why: Unusable) -> UpdateError {
        let key = self.key.clone();
        let not_trusted = |what: String| UpdateError::NotTrusted { server, what };
        match why {
            Unusable::BadKey => UpdateError::BadKey { server, key },
            Unusable::BadSignature => UpdateError::BadSignature { server, key },
            Unusable::BadTime(seconds) => UpdateError::BadTime { server, seconds },
            Unusable::Unsigned(code) => not_trusted(format!("({code}) is not signed")),
            Unusable::Forged => not_trusted("has a wrong signature".to_owned()),
            Unusable::NotAnAnswer => not_trusted("is none to the question".to_owned()),
        }
    }

    fn not_authoritative(&self, server: SocketAddr, uri: &GridUri) -> UpdateError {
        UpdateError::NotAuthoritative { server, name: uri.entry_name() }
    }

    /// Seconds since 1970.
    fn now(&self) -> u64 {
        (self.clock)().as_secs()
    }
}

/// Addresses of the primary server of the zone of a region's entry, and that zone.
async fn named(
    finder: &Finder,
    port: u16,
    uri: &GridUri,
) -> Result<(Vec<SocketAddr>, Name), FindError> {
    let ends = Instant::now() + finder.deadline();
    let asker = finder.asker()?;
    let name = uri.entry_name();
    let fqdn = Name::from_ascii(format!("{name}."))
        .map_err(|error| asker.unreachable(&name, error.to_string()))?;
    let (zone, soa) =
        asker.zone(&fqdn, ends).await?.ok_or_else(|| FindError::NoSuchName { uri: uri.clone() })?;
    let primary = soa.mname.to_ascii();
    let primary = primary.trim_end_matches('.');
    let none = || FindError::NoAddress { name: name.clone(), hosts: primary.to_owned() };
    let ips = asker.addresses(primary, ends).await.map_err(|why| why.unwrap_or_else(none))?;
    Ok((ips.map(|ip| SocketAddr::new(ip, port)).collect(), zone))
}

//! Asks the DNS for a region's entry.

use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::op::ResponseCode;
use hickory_proto::rr::rdata::SOA;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::system_conf::read_system_conf;
use tokio::time::{Instant, timeout_at};

use super::entry::{
    Entry, EntryError, Host, MAX_RECORDS, Published, Srv, URI_TYPE, is_ours, read_srv, read_uri,
};
use super::found::{FindError, Form, Found};
use crate::uri::GridUri;

/// How often one question is asked, in the time there is for it.
const TRIES: u32 = 3;
/// No more name servers are asked, and no more addresses of one entry are told.
const MAX_SERVERS: usize = 8;
const MAX_ADDRESSES: usize = 16;
/// A zone is looked for at no more names.
const MAX_DEPTH: usize = 16;

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Servers {
    /// The name servers of this machine, as `/etc/resolv.conf` names them at the time.
    System,
    /// These.
    Given(Vec<SocketAddr>),
}

/// Finds regions in the DNS.
#[derive(Debug, Clone)]
pub struct Finder {
    servers: Servers,
    deadline: Duration,
}

/// What the DNS has of one name and type.
pub(super) enum Answer {
    /// At least one record.
    Records(Vec<Record>),
    /// None, with authority.
    Absent(NoRecords),
}

impl Finder {
    /// Asks these servers; each search takes at most `deadline`.
    pub fn new(servers: Servers, deadline: Duration) -> Self {
        Self { servers, deadline }
    }

    /// The entries of a region: those of its URI records, or, where there are none, those of its SRV
    /// and TXT records. At least one.
    ///
    /// # Errors
    /// When there is none, or the DNS cannot tell within the deadline.
    pub async fn find(&self, uri: &GridUri) -> Result<Found, FindError> {
        let ends = Instant::now() + self.deadline;
        let asker = self.asker()?;
        // Middleboxes that pass no unknown types leave such questions without an answer.
        let half = Instant::now() + self.deadline / 2;
        let name = uri.entry_name();
        match asker.ask(&name, RecordType::Unknown(URI_TYPE), half).await {
            Ok(Answer::Records(records)) => read_uris(&name, &records),
            Ok(Answer::Absent(none)) if none.response_code == ResponseCode::NXDomain => {
                Err(asker.absent(uri, ends).await)
            }
            Ok(Answer::Absent(_)) | Err(_) => asker.find_srv(uri, ends).await,
        }
    }

    /// The addresses at which an entry's node is reached, the preferred first; at least one, at most
    /// 16.
    ///
    /// # Errors
    /// When no host of it has an address, or the DNS cannot tell within the deadline.
    pub async fn addresses(
        &self,
        uri: &GridUri,
        entry: &Entry,
    ) -> Result<Vec<SocketAddr>, FindError> {
        let asker = self.asker()?;
        let names = entry.hosts().iter().filter(|host| matches!(host, Host::Name(_))).count();
        // Each name has its share, so that one that is slow does not keep the others away.
        let share = self.deadline / u32::try_from(names.max(1)).unwrap_or(u32::MAX);
        let (mut found, mut failed) = (Vec::new(), None);
        for host in entry.hosts() {
            match host {
                Host::Ip(ip) => found.push(SocketAddr::new(*ip, entry.port())),
                Host::Name(name) => match asker.addresses(name, Instant::now() + share).await {
                    Ok(ips) => found.extend(ips.map(|ip| SocketAddr::new(ip, entry.port()))),
                    Err(error) => failed = failed.or(error),
                },
            }
        }
        found.truncate(MAX_ADDRESSES);
        if found.is_empty() {
            let hosts: Vec<_> = entry.hosts().iter().map(Host::to_string).collect();
            let (name, hosts) = (uri.entry_name(), hosts.join(", "));
            return Err(failed.unwrap_or(FindError::NoAddress { name, hosts }));
        }
        Ok(found)
    }

    /// One look-up with the settings of this moment.
    pub(super) fn asker(&self) -> Result<Asker, FindError> {
        let no_servers = |why: String| FindError::NoServers { why };
        let (mut config, mut options) = match &self.servers {
            Servers::Given(servers) if servers.is_empty() => {
                return Err(no_servers("none was given".to_owned()));
            }
            Servers::Given(servers) => {
                let servers = servers.iter().take(MAX_SERVERS).map(|at| server(*at)).collect();
                (ResolverConfig::from_name_servers(servers), ResolverOpts::default())
            }
            Servers::System => read_system_conf().map_err(|error| no_servers(error.to_string()))?,
        };
        config.name_servers.truncate(MAX_SERVERS);
        options.timeout = self.deadline / 2 / TRIES;
        options.attempts = TRIES as usize - 1;
        // What has changed is wanted: who asks again may have found nobody at the old address.
        options.cache_size = 0;
        options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
        let shown = |one: &NameServerConfig| match one.connections.first() {
            Some(connection) => SocketAddr::new(one.ip, connection.port).to_string(),
            None => one.ip.to_string(),
        };
        let servers: Vec<_> = config.name_servers.iter().map(shown).collect();
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(|error| no_servers(error.to_string()))?;
        Ok(Asker { resolver, servers: servers.join(", "), deadline: self.deadline })
    }

    /// How long a search may take.
    pub(super) fn deadline(&self) -> Duration {
        self.deadline
    }
}

fn server(at: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = at.port();
    }
    NameServerConfig::new(at.ip(), true, connections)
}

/// One look-up.
pub(super) struct Asker {
    resolver: TokioResolver,
    servers: String,
    deadline: Duration,
}

impl Asker {
    /// Asks for the records of one name, given without a dot at its end, and type.
    pub(super) async fn ask(
        &self,
        name: &str,
        of: RecordType,
        ends: Instant,
    ) -> Result<Answer, FindError> {
        let asked = match Name::from_ascii(format!("{name}.")) {
            Ok(asked) => asked,
            Err(error) => return Err(self.unreachable(name, error.to_string())),
        };
        match timeout_at(ends, self.resolver.lookup(asked, of)).await {
            Err(_) => Err(self.timed_out(name)),
            Ok(Ok(lookup)) => {
                let records = lookup.answers().iter().filter(|one| one.record_type() == of);
                let records: Vec<_> = records.take(MAX_RECORDS).cloned().collect();
                if records.is_empty() {
                    // An alias that leads nowhere.
                    let query = lookup.query().clone();
                    return Ok(Answer::Absent(NoRecords::new(query, ResponseCode::NoError)));
                }
                Ok(Answer::Records(records))
            }
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => Ok(Answer::Absent(none)),
            Ok(Err(error)) => Err(self.failed(name, &error)),
        }
    }

    /// The addresses of a host; why there is none, unless the DNS says that there is none.
    pub(super) async fn addresses(
        &self,
        host: &str,
        ends: Instant,
    ) -> Result<impl Iterator<Item = std::net::IpAddr> + use<>, Option<FindError>> {
        match timeout_at(ends, self.resolver.lookup_ip(format!("{host}."))).await {
            Err(_) => Err(Some(self.timed_out(host))),
            Ok(Ok(lookup)) => Ok(lookup.iter().take(MAX_ADDRESSES).collect::<Vec<_>>().into_iter()),
            Ok(Err(error)) if error.is_no_records_found() => Err(None),
            Ok(Err(error)) => Err(Some(self.failed(host, &error))),
        }
    }

    /// The zone in which a name lies, and its SOA record; `None` when there is none.
    pub(super) async fn zone(
        &self,
        name: &Name,
        ends: Instant,
    ) -> Result<Option<(Name, SOA)>, FindError> {
        let mut at = name.clone();
        for _ in 0..MAX_DEPTH {
            if at.is_root() {
                break;
            }
            let text = at.to_ascii();
            // Where a name has none the answer should name that of its zone (RFC 2308, 3), which not
            // every resolver passes on.
            let records = match self.ask(text.trim_end_matches('.'), RecordType::SOA, ends).await? {
                Answer::Records(records) => records,
                Answer::Absent(none) => {
                    none.soa.map(|soa| soa.into_record_of_rdata()).into_iter().collect()
                }
            };
            if let Some(found) = records.iter().find_map(|record| soa_of(record, name)) {
                return Ok(Some(found));
            }
            at = at.base_name();
        }
        Ok(None)
    }

    async fn find_srv(&self, uri: &GridUri, ends: Instant) -> Result<Found, FindError> {
        let name = uri.entry_name();
        let (srv, txt) = tokio::join!(
            self.ask(&name, RecordType::SRV, ends),
            self.ask(&name, RecordType::TXT, ends)
        );
        let (srv, txt) = match (srv?, txt?) {
            (Answer::Absent(_), Answer::Absent(_)) => return Err(self.absent(uri, ends).await),
            (srv, txt) => (srv.records(), txt.records()),
        };
        match read_srvs(uri, &srv, &txt) {
            Ok(Some(found)) => Ok(found),
            Ok(None) => Err(self.absent(uri, ends).await),
            Err(error) => Err(error),
        }
    }

    /// What there being no records means.
    async fn absent(&self, uri: &GridUri, ends: Instant) -> FindError {
        match self.ask(uri.name(), RecordType::SOA, ends).await {
            Ok(Answer::Absent(none)) if none.response_code == ResponseCode::NXDomain => {
                FindError::NoSuchName { uri: uri.clone() }
            }
            Ok(_) => FindError::NoEntry { uri: uri.clone() },
            Err(error) => error,
        }
    }

    fn timed_out(&self, name: &str) -> FindError {
        let (name, servers, after) = (name.to_owned(), self.servers.clone(), self.deadline);
        FindError::TimedOut { name, servers, after }
    }

    pub(super) fn unreachable(&self, name: &str, why: String) -> FindError {
        FindError::Unreachable { name: name.to_owned(), servers: self.servers.clone(), why }
    }

    fn failed(&self, name: &str, error: &NetError) -> FindError {
        match error {
            NetError::Timeout => self.timed_out(name),
            NetError::Dns(DnsError::ResponseCode(code)) => {
                self.unreachable(name, format!("they answer {code}"))
            }
            error => self.unreachable(name, error.to_string()),
        }
    }
}

impl Answer {
    fn records(self) -> Vec<Record> {
        match self {
            Answer::Records(records) => records,
            Answer::Absent(_) => Vec::new(),
        }
    }
}

/// The zone and its SOA record, when this is that of a zone in which `name` lies.
pub(super) fn soa_of(record: &Record, name: &Name) -> Option<(Name, SOA)> {
    match &record.data {
        RData::SOA(soa) if record.name.zone_of(name) => Some((record.name.clone(), soa.clone())),
        _ => None,
    }
}

/// Entries of URI records: those that are entries, if any.
pub(super) fn read_uris(name: &str, records: &[Record]) -> Result<Found, FindError> {
    let read = records.iter().filter_map(|record| match &record.data {
        RData::Unknown { rdata, .. } => Some(read_uri(&rdata.anything)),
        _ => None,
    });
    gather(name, "URI", Form::Uri, read)
}

/// Entries of SRV and TXT records; `None` when neither is for us.
pub(super) fn read_srvs(
    uri: &GridUri,
    srv: &[Record],
    txt: &[Record],
) -> Result<Option<Found>, FindError> {
    let srv: Vec<Srv> = srv
        .iter()
        .filter_map(|record| match &record.data {
            RData::SRV(srv) => Some(Srv {
                priority: srv.priority,
                weight: srv.weight,
                port: srv.port,
                target: srv.target.to_ascii(),
            }),
            _ => None,
        })
        .collect();
    let txt = txt.iter().filter_map(|record| match &record.data {
        RData::TXT(txt) if is_ours(&txt.txt_data) => Some(&txt.txt_data),
        _ => None,
    });
    let mut txt = txt.take(MAX_RECORDS).peekable();
    let name = uri.entry_name();
    match (txt.peek(), srv.is_empty()) {
        (None, true) => Ok(None),
        (None, false) => {
            let why = EntryError::Missing { field: "the string v=phantom1 at the beginning" };
            Err(FindError::Malformed { name, record: "TXT", why })
        }
        (Some(_), true) => {
            let why = EntryError::Missing { field: "a record of this type, beside TXT," };
            Err(FindError::Malformed { name, record: "SRV", why })
        }
        (Some(_), false) => {
            let read = txt.map(|strings| read_srv(uri, &srv, strings));
            gather(&name, "TXT", Form::Srv, read).map(Some)
        }
    }
}

fn gather(
    name: &str,
    record: &'static str,
    form: Form,
    read: impl Iterator<Item = Result<Published, EntryError>>,
) -> Result<Found, FindError> {
    let (mut published, mut wrong) = (Vec::new(), None);
    for one in read.take(MAX_RECORDS) {
        match one {
            Ok(one) => published.push(one),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    match wrong {
        Some(why) if published.is_empty() => {
            Err(FindError::Malformed { name: name.to_owned(), record, why })
        }
        // A reader of its own records only comes here with some.
        None if published.is_empty() => {
            let why = EntryError::Missing { field: "its content" };
            Err(FindError::Malformed { name: name.to_owned(), record, why })
        }
        _ => Ok(Found { published, form }),
    }
}

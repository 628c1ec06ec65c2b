//! Taking part in a sub-grid: found one, join one, let others in, put members out.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use phantom_discovery::Found;
use phantom_discovery::machine::coordinates::{Decision, Probe, choose_subgrid};
use phantom_model::{NodeId, SubgridId};
use phantom_net::member::CertificateError;
use phantom_net::{Asked, Asking, Code, Error, PeerAddr, Token};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::{Daemon, Refusal};
use crate::api::types::*;

/// How long a question for news of a request is kept waiting.
const NEWS: Duration = Duration::from_secs(10);
/// So many members of the sub-grid found are asked before it is given up.
const MOST_ASKED: usize = 8;

/// This node's own request to be let in.
pub struct Joining {
    state: Mutex<Option<State>>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Clone)]
struct State {
    asked: AskedRow,
    /// How it ended without success.
    failed: Option<String>,
    /// Ends the waiting.
    abort: Option<AbortHandle>,
}

impl Default for Joining {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Joining {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn set(&self, state: Option<State>) {
        *self.lock() = state;
        self.changed.send_modify(|count| *count += 1);
    }

    /// Gives a request up that waits; says whether there was one.
    fn cancel(&self) -> bool {
        let waits = self.waiting().is_some();
        if let Some(abort) = self.lock().as_ref().and_then(|state| state.abort.clone()) {
            abort.abort();
        }
        if waits {
            self.set(None);
        }
        waits
    }

    /// The request that waits.
    fn waiting(&self) -> Option<AskedRow> {
        self.lock().as_ref().filter(|state| state.failed.is_none()).map(|state| state.asked.clone())
    }
}

impl Daemon {
    /// Takes part: joins with a token, asks the sub-grid that is near to be let in, or founds one
    /// where none is. A member stays what it is.
    pub async fn up(self: &Arc<Self>, request: UpRequest) -> Result<UpReply, Refusal> {
        let elsewhere = request.join.is_some()
            || request.new
            || request.subgrid.is_some()
            || !request.peers.is_empty();
        if elsewhere {
            self.joining.cancel();
        }
        if let Some(text) = &request.join {
            let token: Token = text.parse().map_err(Refusal::usage)?;
            let membership =
                self.network.join(&token, &self.config.name).await.map_err(Refusal::failed)?;
            return Ok(self.taken(format!("Joined the sub-grid {}.", membership.subgrid().short())));
        }
        if let Some(membership) = self.network.membership() {
            let line = format!("Member of the sub-grid {}.", membership.subgrid().short());
            return Ok(self.taken(line));
        }
        // Who was put out asks again; a membership that is damaged is not passed over.
        let removed = match self.network.standing() {
            Err(Error::NotMember) | Ok(_) => None,
            Err(error @ Error::FalseMember(CertificateError::Removed { .. })) => Some(error),
            Err(error) => return Err(Refusal::failed(error)),
        };
        if request.new {
            return self.found("").await;
        }
        if let Some(asked) = self.joining.waiting() {
            return Ok(UpReply { asked: Some(asked), ..self.taken(String::new()) });
        }
        let peers = self.resolve(&request.peers).await?;
        let founding = peers.is_empty() && request.subgrid.is_none();
        let found = self.discovery.search(peers, founding).await;
        let near = choose(found, request.subgrid.as_deref())?;
        if near.is_empty() {
            if !request.peers.is_empty() {
                return Err(Refusal::failed(format!(
                    "nobody answers at {}: is `phantom up` done there, and UDP port {} open?",
                    request.peers.join(", "),
                    self.config.discovery_port
                )));
            }
            if let Some(error) = removed {
                return Err(Refusal::failed(format!(
                    "{error}. Nobody answers on the local network; `phantom up --new` founds \
                     another sub-grid"
                )));
            }
            return self.found("Nobody answered on the local network. ").await;
        }
        self.ask_one_of(near).await
    }

    async fn found(&self, why: &str) -> Result<UpReply, Refusal> {
        let membership = self.network.found(&self.config.name).await.map_err(Refusal::failed)?;
        let subgrid = membership.subgrid().short();
        Ok(self.taken(format!("{why}Founded the sub-grid {subgrid}.")))
    }

    fn taken(&self, line: String) -> UpReply {
        let name = self.network.membership().map(|membership| membership.name().to_owned());
        UpReply {
            node: self.node,
            name: name.unwrap_or_else(|| self.config.name.clone()),
            line,
            members: self.network.members().len(),
            asked: None,
        }
    }

    /// The addresses behind `--peer`.
    async fn resolve(&self, peers: &[String]) -> Result<Vec<SocketAddr>, Refusal> {
        let mut addrs = Vec::new();
        for peer in peers {
            let port = self.config.discovery_port;
            let looked_up: Result<Vec<_>, _> = match peer.parse::<std::net::IpAddr>() {
                Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
                Err(_)
                    if peer
                        .rsplit_once(':')
                        .is_some_and(|(_, port)| port.parse::<u16>().is_ok()) =>
                {
                    tokio::net::lookup_host(peer.as_str()).await.map(Iterator::collect)
                }
                Err(_) => {
                    tokio::net::lookup_host((peer.as_str(), port)).await.map(Iterator::collect)
                }
            };
            addrs.extend(looked_up.map_err(|error| {
                Refusal::failed(format!("`{peer}` is no machine that can be found: {error}"))
            })?);
        }
        Ok(addrs)
    }

    /// Asks members of one sub-grid, those first that may let others in.
    async fn ask_one_of(self: &Arc<Self>, mut near: Vec<Found>) -> Result<UpReply, Refusal> {
        near.sort_by_key(|found| (!found.presence.may_accept, found.node));
        let mut last = None;
        for found in near.into_iter().take(MOST_ASKED) {
            let addr = PeerAddr::Ip(SocketAddr::new(found.ip, found.presence.port));
            match self.network.ask(found.node, &[addr], &self.config.name).await {
                Ok(Asked::Joined(membership)) => {
                    let line = format!("Joined the sub-grid {}.", membership.subgrid().short());
                    return Ok(self.taken(line));
                }
                Ok(Asked::Waits(asking)) => return Ok(self.wait_for(*asking)),
                Err(error) => last = Some(error),
            }
        }
        Err(match last {
            Some(error) => Refusal::failed(error),
            None => Refusal::failed("no member of the sub-grid could be asked"),
        })
    }

    fn wait_for(self: &Arc<Self>, asking: Asking) -> UpReply {
        let asked = AskedRow {
            code: asking.code().to_string(),
            of: asking.asked().to_owned(),
            subgrid: asking.subgrid().short(),
        };
        let state = State { asked: asked.clone(), failed: None, abort: None };
        self.joining.set(Some(state.clone()));
        let daemon = self.clone();
        let waiting = tokio::spawn(async move {
            let stopping = daemon.stopping();
            let answer = tokio::select! {
                answer = daemon.network.answered(asking) => answer,
                () = stopping => return,
            };
            let failed = match answer {
                Ok(membership) => {
                    tracing::info!(subgrid = %membership.subgrid().short(), "accepted");
                    return daemon.joining.set(None);
                }
                Err(error) => error.to_string(),
            };
            tracing::warn!(failed, "not let in");
            daemon.joining.set(Some(State { failed: Some(failed), ..state }));
        });
        if let Some(state) = self.joining.lock().as_mut() {
            state.abort = Some(waiting.abort_handle());
        }
        UpReply { asked: Some(asked), ..self.taken(String::new()) }
    }

    /// How the request of this node stands; answers at once when it is decided, else after a while.
    pub async fn joined(&self) -> Result<UpReply, Refusal> {
        let mut changes = self.joining.changed.subscribe();
        let _ = tokio::time::timeout(NEWS, async {
            while self.joining.waiting().is_some() && changes.changed().await.is_ok() {}
        })
        .await;
        let state = self.joining.lock().clone();
        match state {
            Some(State { failed: Some(failed), .. }) => Err(Refusal::failed(failed)),
            Some(State { asked, .. }) => {
                Ok(UpReply { asked: Some(asked), ..self.taken(String::new()) })
            }
            None => {
                let membership = self.network.standing().map_err(Refusal::failed)?;
                let subgrid = membership.subgrid().short();
                Ok(self.taken(format!("Accepted: member of the sub-grid {subgrid}.")))
            }
        }
    }

    /// Makes an invitation.
    pub async fn invite(&self, request: InviteRequest) -> Result<InviteReply, Refusal> {
        let ttl = Duration::from_secs(request.ttl_s);
        let token = self.network.invite(ttl).await.map_err(Refusal::failed)?;
        Ok(InviteReply { token: token.to_string() })
    }

    /// Machines that wait to be let in here.
    pub fn requests(&self) -> Result<Vec<RequestRow>, Refusal> {
        let membership = self.network.standing().map_err(Refusal::failed)?;
        if !membership.may_accept {
            let names: Vec<_> =
                self.network.acceptors().iter().map(|member| member.name().to_owned()).collect();
            return Err(Refusal::failed(format!(
                "this node may not let others in, so nobody asks it: look on {}",
                if names.is_empty() { "the founder".to_owned() } else { names.join(", ") }
            )));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let row = |request: phantom_net::Request| RequestRow {
            code: request.code.to_string(),
            name: request.name,
            node: request.node,
            from: request.from.map_or_else(|| "-".to_owned(), |from| from.to_string()),
            waiting_s: now.as_secs().saturating_sub(request.since),
        };
        Ok(self.network.requests().into_iter().map(row).collect())
    }

    /// Lets in the machine that shows a code.
    pub async fn accept(&self, request: CodeRequest) -> Result<AcceptReply, Refusal> {
        let code: Code = request.code.parse().map_err(Refusal::usage)?;
        let name = self.network.accept_request(code).await.map_err(Refusal::failed)?;
        Ok(AcceptReply { name })
    }

    /// Does not let it in.
    pub fn deny(&self, request: CodeRequest) -> Result<AcceptReply, Refusal> {
        let code: Code = request.code.parse().map_err(Refusal::usage)?;
        let name = self.network.deny_request(code).map_err(Refusal::failed)?;
        Ok(AcceptReply { name })
    }

    /// Puts a member out.
    pub async fn remove(&self, node: &str) -> Result<AcceptReply, Refusal> {
        let (node, name) = self.member_called(node)?;
        self.network.remove(node).await.map_err(Refusal::failed)?;
        tracing::info!(name, node = %node.short(), "removed");
        Ok(AcceptReply { name })
    }

    /// Gives a member the right to let others in, or takes it back.
    pub async fn delegate(&self, request: DelegateRequest) -> Result<AcceptReply, Refusal> {
        let (node, name) = self.member_called(&request.node)?;
        let done = if request.withdraw {
            self.network.withdraw(node).await
        } else {
            self.network.delegate(node).await
        };
        done.map_err(Refusal::failed)?;
        Ok(AcceptReply { name })
    }

    pub(super) fn member_called(&self, text: &str) -> Result<(NodeId, String), Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let members = self.network.members();
        let called = |name: &str, node: NodeId| {
            name == text || (text.len() >= 4 && node.to_string().starts_with(text))
        };
        let mut found: Vec<_> = members
            .iter()
            .filter(|member| called(member.name(), member.node()))
            .map(|member| (member.node(), member.name().to_owned()))
            .collect();
        if let Some(exact) = found.iter().position(|(_, name)| name == text) {
            return Ok(found.swap_remove(exact));
        }
        match found.len() {
            1 => Ok(found.swap_remove(0)),
            0 => Err(Refusal::usage(format!(
                "no node `{text}` is in the sub-grid; see `phantom nodes`"
            ))),
            _ => Err(Refusal::usage(format!(
                "`{text}` is the beginning of several nodes' ids; write more of it"
            ))),
        }
    }

    /// Gives a request to be let in up; a member forgets its sub-grid, unless an app needs it to come home.
    pub async fn leave(&self) -> Result<(), Refusal> {
        if self.joining.cancel() {
            return Ok(());
        }
        let records = self.apps.records();
        let away = records.iter().find(|record| record.is_away() || record.pending.is_some());
        if let Some(record) = away {
            let (name, home) = (&record.spec.name, &self.config.name);
            return Err(Refusal::failed(format!(
                "{name} is away from home; bring it back first: `phantom migrate {name} {home}`"
            )));
        }
        if let Some(home) = self.guests.first_home() {
            return Err(Refusal::failed(format!(
                "an app of {} runs here; its user moves or ends it first (`phantom ps`)",
                self.members.name(home)
            )));
        }
        self.end_services().await;
        let left = self.network.leave().await.map_err(Refusal::failed);
        self.resume_services();
        left
    }
}

/// How far a sub-grid may be to be asked without a word, where several answer.
const NEAR: Duration = Duration::from_millis(50);
/// By so much others must be further than the nearest; else nobody can tell which is.
const CLEARLY: (f64, Duration) = (2.0, Duration::from_millis(2));

/// The members of the one sub-grid that is meant; none when nobody was found. Of several the nearest
/// that this node may enter, where that is clear.
fn choose(found: Vec<Found>, wanted: Option<&str>) -> Result<Vec<Found>, Refusal> {
    let mut subgrids: BTreeMap<SubgridId, Vec<Found>> = BTreeMap::new();
    for one in found {
        subgrids.entry(one.subgrid).or_default().push(one);
    }
    let described = |subgrids: &BTreeMap<SubgridId, Vec<Found>>| {
        let one = |(subgrid, found): (&SubgridId, &Vec<Found>)| {
            let names: Vec<_> = found.iter().take(4).map(|found| found.name.as_str()).collect();
            format!("{} ({})", subgrid.short(), names.join(", "))
        };
        subgrids.iter().map(one).collect::<Vec<_>>().join(" and ")
    };
    if let Some(wanted) = wanted {
        let is_meant = |subgrid: &SubgridId, found: &[Found]| {
            (wanted.len() >= 4 && subgrid.to_string().starts_with(wanted))
                || found.iter().any(|found| found.name == wanted)
        };
        let heard = described(&subgrids);
        subgrids.retain(|subgrid, found| is_meant(subgrid, found));
        if subgrids.is_empty() {
            let heard = if heard.is_empty() { "none".to_owned() } else { heard };
            return Err(Refusal::failed(format!(
                "no sub-grid `{wanted}` answers; found: {heard}. Give the beginning of its id or \
                 the name of a member"
            )));
        }
    }
    if let Some(nearest) = nearest(&subgrids) {
        return Ok(subgrids.remove(&nearest).unwrap_or_default());
    }
    if subgrids.len() > 1 {
        return Err(Refusal::usage(format!(
            "several sub-grids answer: {}; say which with `--subgrid ID` (or the name of a \
             member), or found another with `--new`",
            described(&subgrids)
        )));
    }
    Ok(subgrids.into_values().next().unwrap_or_default())
}

fn nearest(subgrids: &BTreeMap<SubgridId, Vec<Found>>) -> Option<SubgridId> {
    let probe = |(subgrid, found): (&SubgridId, &Vec<Found>)| Probe {
        subgrid: *subgrid,
        rtts: found.iter().map(|one| one.rtt).collect(),
        may_enter: found.iter().any(|one| one.presence.may_accept),
    };
    let probes: Vec<Probe> = subgrids.iter().map(probe).collect();
    let Decision::Ask { subgrid, rtt, nearer: None } = choose_subgrid(&probes, NEAR) else {
        return None;
    };
    let others = probes.iter().filter(|probe| probe.subgrid != subgrid);
    let is_further = |other: Duration| other > rtt.mul_f64(CLEARLY.0) && other > rtt + CLEARLY.1;
    others
        .filter_map(|probe| probe.rtts.iter().min())
        .all(|other| is_further(*other))
        .then_some(subgrid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use phantom_discovery::wire::Presence;

    fn found(subgrid: u8, name: &str) -> Found {
        Found {
            subgrid: SubgridId([subgrid; 32]),
            node: NodeId([subgrid; 32]),
            name: name.to_owned(),
            ip: [192, 0, 2, 1].into(),
            presence: Presence { port: 1, datagram_port: 2, may_accept: true, echo: 1, at_ms: 1 },
            rtt: Duration::from_millis(1),
        }
    }

    #[test]
    fn the_nearest_sub_grid_is_asked_where_it_is_clear_which_that_is() {
        let at = |subgrid, name, millis: u64| Found {
            rtt: Duration::from_millis(millis),
            ..found(subgrid, name)
        };
        let of = |all: Vec<Found>| choose(all, None).map(|near| near[0].name.clone());
        assert_eq!(of(vec![at(1, "attic", 1), at(2, "lab", 12)]).unwrap(), "attic");
        assert_eq!(of(vec![at(1, "attic", 40), at(2, "lab", 1)]).unwrap(), "lab");
        assert!(of(vec![at(1, "attic", 2), at(2, "lab", 3)]).is_err(), "nobody can tell");
        assert!(of(vec![at(1, "attic", 80), at(2, "lab", 300)]).is_err(), "none is near");
        let mut closed = at(1, "attic", 1);
        closed.presence.may_accept = false;
        assert!(of(vec![closed, at(2, "lab", 20)]).is_err(), "the nearest lets nobody in");
    }

    #[test]
    fn of_two_sub_grids_the_user_says_which() {
        let both = || vec![found(1, "attic"), found(2, "lab")];
        let refused = choose(both(), None).unwrap_err();
        assert!(refused.usage && refused.line.contains("--subgrid"), "{}", refused.line);
        assert!(refused.line.contains("(attic)") && refused.line.contains("(lab)"));
        assert_eq!(choose(both(), Some("lab")).unwrap()[0].name, "lab");
        let id = SubgridId([1; 32]).to_string();
        assert_eq!(choose(both(), Some(&id[..8])).unwrap()[0].name, "attic");
        assert!(choose(both(), Some("home")).unwrap_err().line.contains("(attic)"));
        assert!(choose(vec![], None).unwrap().is_empty());
    }
}

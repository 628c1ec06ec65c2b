//! The node's membership and the members it knows, kept in the store; invitations it gave.

use std::sync::{Arc, Mutex, MutexGuard};

use phantom_model::{NodeId, SubgridId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use crate::error::Error;
use crate::key::SubgridKey;
use crate::link::PeerAddr;
use crate::member::{
    Certificate, CertificateError, Decision, Invitation, JoinAsk, JoinRefusal, MAX_MEMBERS, Member,
    Roster, Terms, Token, TokenId, VALIDITY_S, decide,
};
use crate::store::{Store, StoreError};

const MEMBERSHIP: &str = "net/membership";
const ISSUER: &str = "net/issuer";
const MEMBERS: &str = "net/member/";
const INVITATIONS: &str = "net/invitation/";
/// How long a used or expired invitation is remembered, for a node that asks again.
const KEEP_INVITATION_S: u64 = 24 * 3600;
/// How long before its end a founder renews its own certificate.
const RENEW_S: u64 = 60 * 24 * 3600;

/// This node's place in a sub-grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The certificate it shows.
    pub certificate: Certificate,
    /// Whether it holds the sub-grid's key, so can invite.
    pub founder: bool,
}

impl Membership {
    /// Which sub-grid.
    pub fn subgrid(&self) -> SubgridId {
        self.certificate.terms().subgrid
    }

    /// What the node is called there.
    pub fn name(&self) -> &str {
        &self.certificate.terms().name
    }
}

pub(crate) struct Book {
    id: NodeId,
    store: Arc<dyn Store>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    state: Mutex<State>,
    /// Counts changes of the membership or of what is known of members.
    changed: watch::Sender<u64>,
    /// Joins are decided one at a time.
    desk: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    own: Option<(Certificate, Roster)>,
    /// Why the membership in the store is none.
    false_member: Option<CertificateError>,
    /// Who let this node in, so holds the sub-grid's key.
    issuer: Option<NodeId>,
    key: Option<SubgridKey>,
}

impl Book {
    /// Reads the store.
    pub async fn open(
        id: NodeId,
        store: Arc<dyn Store>,
        key: Option<SubgridKey>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Result<Self, Error> {
        let issuer = read(&store, ISSUER, "who let this node in").await?;
        let mut state = State { key, issuer, ..State::default() };
        let own: Option<Certificate> = read(&store, MEMBERSHIP, "the membership").await?;
        if let Some(certificate) = own {
            let subgrid = certificate.terms().subgrid;
            if let Err(error) = certificate.check_for_ever(id, subgrid) {
                // Apps at home here must stay within reach all the same.
                tracing::error!(%error, "the membership in the store does not hold");
                state.false_member = Some(error);
                return Ok(Self::with_state(id, store, clock, state));
            }
            let certificate = renewed(&store, &state, certificate, clock()).await?;
            let mut roster = Roster::new(subgrid);
            let listed = on_store(&store, "list the members", |store| store.list(MEMBERS)).await?;
            for (_, bytes) in listed {
                // An entry that no longer decodes or holds is learned anew from other members.
                if let Ok(member) = postcard::from_bytes::<Member>(&bytes) {
                    roster.learn(member, clock());
                }
            }
            roster.learn(Member { certificate: certificate.clone(), addrs: vec![] }, clock());
            state.own = Some((certificate, roster));
        }
        Ok(Self::with_state(id, store, clock, state))
    }

    fn with_state(
        id: NodeId,
        store: Arc<dyn Store>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
        state: State,
    ) -> Self {
        let (state, changed, desk) = (Mutex::new(state), watch::Sender::new(0), Default::default());
        Self { id, store, clock, state, changed, desk }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn membership(&self) -> Option<Membership> {
        let state = self.state();
        let (certificate, _) = state.own.as_ref()?;
        let holds = |key: &SubgridKey| key.id() == certificate.terms().subgrid;
        let founder = state.key.as_ref().is_some_and(holds);
        Some(Membership { certificate: certificate.clone(), founder })
    }

    /// The membership, or why there is none.
    pub fn standing(&self) -> Result<Membership, Error> {
        self.membership().ok_or_else(|| match &self.state().false_member {
            Some(error) => Error::FalseMember(error.clone()),
            None => Error::NotMember,
        })
    }

    pub fn members(&self) -> Vec<Member> {
        self.state().own.iter().flat_map(|(_, roster)| roster.iter().cloned()).collect()
    }

    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.state().own.as_ref()?.1.get(node).cloned()
    }

    pub fn digest(&self) -> Option<[u8; 32]> {
        Some(self.state().own.as_ref()?.1.digest())
    }

    /// Makes this node the founder of a new sub-grid.
    pub async fn found(
        &self,
        key: SubgridKey,
        name: &str,
        addrs: Vec<PeerAddr>,
    ) -> Result<Membership, Error> {
        let certificate = issue(&key, self.id, name, self.now())?;
        self.state().key = Some(key);
        self.enter(certificate, vec![], addrs, self.id).await
    }

    /// Becomes a member by `certificate`, which `issuer` gave, knowing `members`.
    pub async fn enter(
        &self,
        certificate: Certificate,
        members: Vec<Member>,
        addrs: Vec<PeerAddr>,
        issuer: NodeId,
    ) -> Result<Membership, Error> {
        let now = self.now();
        let subgrid = certificate.terms().subgrid;
        certificate.check_for(self.id, subgrid, now)?;
        let mut roster = Roster::new(subgrid);
        let own = Member { certificate: certificate.clone(), addrs };
        for member in members.into_iter().take(MAX_MEMBERS).chain([own]) {
            roster.learn(member, now);
        }
        for member in roster.iter() {
            self.save(member).await?;
        }
        let bytes = encode(&certificate);
        let put = move |store: &dyn Store| {
            store.put(ISSUER, &encode(&issuer))?;
            store.put(MEMBERSHIP, &bytes)
        };
        on_store(&self.store, "record the membership", put).await?;
        {
            let mut state = self.state();
            state.own = Some((certificate, roster));
            state.issuer = Some(issuer);
            state.false_member = None;
        }
        self.bump();
        self.standing()
    }

    /// Forgets the sub-grid.
    pub async fn leave(&self) -> Result<(), Error> {
        let forget = |store: &dyn Store| {
            store.remove(MEMBERSHIP)?;
            store.remove(ISSUER)?;
            for prefix in [MEMBERS, INVITATIONS] {
                for (key, _) in store.list(prefix)? {
                    store.remove(&key)?;
                }
            }
            Ok(())
        };
        on_store(&self.store, "forget the membership", forget).await?;
        {
            let mut state = self.state();
            (state.own, state.issuer, state.false_member) = (None, None, None);
        }
        self.bump();
        Ok(())
    }

    /// Takes what a peer says about members; `own` is what it says about itself.
    pub async fn learn(&self, heard: Vec<Member>, own: bool) {
        let now = self.now();
        let mut changed = Vec::new();
        if let Some((_, roster)) = &mut self.state().own {
            for member in heard.into_iter().take(MAX_MEMBERS) {
                let node = member.node();
                if node == self.id {
                    continue;
                }
                let news =
                    if own { roster.announce(member, now) } else { roster.learn(member, now) };
                if news {
                    changed.extend(roster.get(node).cloned());
                }
            }
        }
        self.record(changed).await;
    }

    /// Remembers over which address `node` was just reached.
    pub async fn worked(&self, node: NodeId, addr: &PeerAddr) {
        let changed = {
            let mut state = self.state();
            let Some((_, roster)) = &mut state.own else {
                return;
            };
            if !roster.worked(node, addr) {
                return;
            }
            roster.get(node).cloned()
        };
        self.record(changed.into_iter().collect()).await;
    }

    async fn record(&self, changed: Vec<Member>) {
        for member in &changed {
            // What is lost here is learned again; the connection need not fail for it.
            if let Err(error) = self.save(member).await {
                tracing::warn!(%error, member = member.name(), "a member is known but not recorded");
            }
        }
        if !changed.is_empty() {
            self.bump();
        }
    }

    async fn save(&self, member: &Member) -> Result<(), Error> {
        let (key, bytes) = (format!("{MEMBERS}{}", member.node()), encode(member));
        on_store(&self.store, "record a member", move |store| store.put(&key, &bytes)).await
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// Makes an invitation that holds for `ttl_s` seconds.
    pub async fn invite(&self, ttl_s: u64, addrs: Vec<PeerAddr>) -> Result<Token, Error> {
        let membership = self.standing()?;
        if !membership.founder {
            return Err(Error::NotFounder { founder: self.founder() });
        }
        let now = self.now();
        self.sweep(now).await?;
        let token = Token {
            subgrid: membership.subgrid(),
            inviter: self.id,
            addrs,
            secret: rand::random(),
            expires: now.saturating_add(ttl_s),
        };
        let invitation = Invitation { secret: token.secret, expires: token.expires, used: None };
        self.keep(token.id(), &invitation).await?;
        Ok(token)
    }

    /// The node that founded the sub-grid, in words.
    fn founder(&self) -> String {
        let issuer = self.state().issuer;
        match issuer.and_then(|node| self.member(node)) {
            Some(member) => format!("{}, which founded this sub-grid,", member.name()),
            None => "the node that founded this sub-grid".to_owned(),
        }
    }

    async fn keep(&self, id: TokenId, invitation: &Invitation) -> Result<(), Error> {
        let (key, bytes) = (format!("{INVITATIONS}{id}"), encode(invitation));
        on_store(&self.store, "record an invitation", move |store| store.put(&key, &bytes)).await
    }

    async fn sweep(&self, now: u64) -> Result<(), Error> {
        let sweep = move |store: &dyn Store| {
            for (key, bytes) in store.list(INVITATIONS)? {
                let over = postcard::from_bytes::<Invitation>(&bytes)
                    .is_ok_and(|it| it.expires.saturating_add(KEEP_INVITATION_S) < now);
                if over {
                    store.remove(&key)?;
                }
            }
            Ok(())
        };
        on_store(&self.store, "remove old invitations", sweep).await
    }

    /// Answers a node that wants to join: its certificate and whom to know.
    pub async fn admit(
        &self,
        ask: JoinAsk,
        joiner: NodeId,
    ) -> Result<(Certificate, Vec<Member>), JoinRefusal> {
        let _one_at_a_time = self.desk.lock().await;
        let internal = |error: Error| {
            tracing::error!(%error, joiner = %joiner.short(), "a join failed");
            JoinRefusal::Internal
        };
        let membership = self.membership().ok_or(JoinRefusal::OtherSubgrid)?;
        let key = self.state().key.clone().filter(|_| membership.founder);
        let key = key.ok_or(JoinRefusal::NotFounder)?;
        let name = format!("{INVITATIONS}{}", ask.token);
        let invitation: Option<Invitation> =
            read(&self.store, &name, "an invitation").await.map_err(internal)?;
        let (now, subgrid) = (self.now(), membership.subgrid());
        let certificate = match decide(invitation.as_ref(), &ask, joiner, self.id, subgrid, now) {
            Decision::Refuse(refusal) => return Err(refusal),
            Decision::Again(certificate) => *certificate,
            Decision::Issue => {
                let Some(invitation) = invitation else {
                    return Err(JoinRefusal::Unknown);
                };
                let name = self.name_for(&ask.name, joiner)?;
                let issued = issue(&key, joiner, &name, now).map_err(internal)?;
                // Durable before the joiner has it: a crash in between burns nothing, the
                // same node asks again and gets the same certificate.
                let used = Invitation { used: Some(issued.clone()), ..invitation };
                self.keep(ask.token, &used).await.map_err(internal)?;
                issued
            }
        };
        self.learn(vec![Member { certificate: certificate.clone(), addrs: ask.addrs }], true).await;
        Ok((certificate, self.members()))
    }

    fn name_for(&self, wanted: &str, joiner: NodeId) -> Result<String, JoinRefusal> {
        let state = self.state();
        let (_, roster) = state.own.as_ref().ok_or(JoinRefusal::OtherSubgrid)?;
        if roster.len() >= MAX_MEMBERS && roster.get(joiner).is_none() {
            return Err(JoinRefusal::Full);
        }
        Ok(roster.free_name(wanted, joiner))
    }
}

/// A founder's own certificate, renewed in time: nobody else could do it.
async fn renewed(
    store: &Arc<dyn Store>,
    state: &State,
    certificate: Certificate,
    now: u64,
) -> Result<Certificate, Error> {
    let subgrid = certificate.terms().subgrid;
    let Some(key) = state.key.as_ref().filter(|key| key.id() == subgrid) else {
        return Ok(certificate);
    };
    if certificate.check(subgrid, now.saturating_add(RENEW_S)).is_ok() {
        return Ok(certificate);
    }
    let Terms { node, name, serial, .. } = certificate.terms();
    let serial = now.max(serial.saturating_add(1));
    let terms = Terms { serial, ..terms(key, *node, name, now) };
    let certificate = Certificate::issue(key, terms)?;
    let bytes = encode(&certificate);
    let put = move |store: &dyn Store| store.put(MEMBERSHIP, &bytes);
    on_store(store, "renew the membership", put).await?;
    Ok(certificate)
}

fn issue(key: &SubgridKey, node: NodeId, name: &str, now: u64) -> Result<Certificate, Error> {
    Ok(Certificate::issue(key, terms(key, node, name, now))?)
}

fn terms(key: &SubgridKey, node: NodeId, name: &str, now: u64) -> Terms {
    Terms {
        subgrid: key.id(),
        node,
        name: name.to_owned(),
        not_before: now,
        expires: now.saturating_add(VALIDITY_S),
        serial: now,
    }
}

fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    // Plain structs of numbers, strings and lists always serialize.
    postcard::to_stdvec(value).unwrap_or_default()
}

async fn read<T: DeserializeOwned>(
    store: &Arc<dyn Store>,
    key: &str,
    what: &'static str,
) -> Result<Option<T>, Error> {
    let key = key.to_owned();
    let bytes = on_store(store, "read", move |store| store.get(&key)).await?;
    bytes.map(|bytes| postcard::from_bytes(&bytes).map_err(|_| Error::Damaged { what })).transpose()
}

async fn on_store<T: Send + 'static>(
    store: &Arc<dyn Store>,
    what: &'static str,
    work: impl FnOnce(&dyn Store) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, Error> {
    let store = store.clone();
    let done = tokio::task::spawn_blocking(move || work(&*store)).await;
    done.unwrap_or_else(|error| Err(StoreError(error.to_string())))
        .map_err(|source| Error::Store { what, source })
}

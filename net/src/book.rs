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
    Certificate, Decision, Invitation, JoinAsk, JoinRefusal, MAX_MEMBERS, Member, Roster, Terms,
    Token, TokenId, VALIDITY_S, decide,
};
use crate::store::{Store, StoreError};

const MEMBERSHIP: &str = "net/membership";
const MEMBERS: &str = "net/member/";
const INVITATIONS: &str = "net/invitation/";
/// How long a used or expired invitation is remembered, for a node that asks again.
const KEEP_INVITATION_S: u64 = 24 * 3600;

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
        let mut state = State { own: None, key };
        let own: Option<Certificate> = read(&store, MEMBERSHIP, "the membership").await?;
        if let Some(certificate) = own {
            let subgrid = certificate.terms().subgrid;
            certificate.check_genuine(subgrid)?;
            let mut roster = Roster::new(subgrid);
            let listed = on_store(&store, "list the members", |store| store.list(MEMBERS)).await?;
            for (_, bytes) in listed {
                // An entry that no longer decodes or holds is learned anew from other members.
                if let Ok(member) = postcard::from_bytes::<Member>(&bytes) {
                    roster.learn(member, clock());
                }
            }
            state.own = Some((certificate, roster));
        }
        let state = Mutex::new(state);
        Ok(Self {
            id,
            store,
            clock,
            state,
            changed: watch::Sender::new(0),
            desk: Default::default(),
        })
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
        self.enter(certificate, vec![], addrs).await
    }

    /// Becomes a member by `certificate`, knowing `members`.
    pub async fn enter(
        &self,
        certificate: Certificate,
        members: Vec<Member>,
        addrs: Vec<PeerAddr>,
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
        let put = move |store: &dyn Store| store.put(MEMBERSHIP, &bytes);
        on_store(&self.store, "record the membership", put).await?;
        self.state().own = Some((certificate, roster));
        self.bump();
        self.membership().ok_or(Error::NotMember)
    }

    /// Forgets the sub-grid.
    pub async fn leave(&self) -> Result<(), Error> {
        let forget = |store: &dyn Store| {
            store.remove(MEMBERSHIP)?;
            for prefix in [MEMBERS, INVITATIONS] {
                for (key, _) in store.list(prefix)? {
                    store.remove(&key)?;
                }
            }
            Ok(())
        };
        on_store(&self.store, "forget the membership", forget).await?;
        self.state().own = None;
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
        let membership = self.membership().ok_or(Error::NotMember)?;
        if !membership.founder {
            return Err(Error::NotFounder { subgrid: membership.subgrid() });
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

fn issue(key: &SubgridKey, node: NodeId, name: &str, now: u64) -> Result<Certificate, Error> {
    let terms = Terms {
        subgrid: key.id(),
        node,
        name: name.to_owned(),
        not_before: now,
        expires: now.saturating_add(VALIDITY_S),
        serial: now,
    };
    Ok(Certificate::issue(key, terms)?)
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

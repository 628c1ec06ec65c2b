//! The node's membership, the members it knows and their rights, kept in the store.

mod hear;
mod issue;
#[cfg(test)]
mod tests;
mod vos;

use std::sync::{Arc, Mutex, MutexGuard};

use phantom_model::{NodeId, SubgridId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::error::Error;
use crate::key::{NodeKey, SubgridKey};
use crate::link::PeerAddr;
use crate::member::{
    Authority, Certificate, CertificateError, Document, MAX_MEMBERS, Member, Rights, Roster,
    Statements, Vo, Vos,
};
use crate::store::{Store, StoreError};
pub use vos::VoChange;

const MEMBERSHIP: &str = "net/membership";
const ISSUER: &str = "net/issuer";
const MEMBERS: &str = "net/member/";
const RIGHTS: &str = "net/rights";
const POLICIES: &str = "net/policy/";
/// So many versions of the policy document are kept.
const KEPT_POLICIES: usize = 50;
const INVITATIONS: &str = "net/invitation/";
const VOS: &str = "net/vo/";

/// This node's place in a sub-grid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Membership {
    /// The certificate it shows.
    pub certificate: Certificate,
    /// Whether it holds the sub-grid's key.
    pub founder: bool,
    /// Whether it may let others in: it holds the key, or is a delegate.
    pub may_accept: bool,
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

/// What members tell each other: who is one, by whose word, and the policy that counts; virtual
/// organisations in messages of their own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct News {
    pub members: Vec<Member>,
    pub statements: Statements,
    pub policy: Option<Document>,
    pub vos: Vec<Vo>,
}

pub(crate) struct Book {
    id: NodeId,
    key: NodeKey,
    store: Arc<dyn Store>,
    clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    state: Mutex<State>,
    /// Counts changes of the membership or of what is known of members.
    changed: watch::Sender<u64>,
    /// Certificates are issued one at a time.
    one_at_a_time: tokio::sync::Mutex<()>,
    /// The store has of virtual organisations what counts.
    vo_writes: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    own: Option<Own>,
    /// Why the membership in the store is none.
    false_member: Option<CertificateError>,
    /// Who let this node in, so holds the sub-grid's key.
    issuer: Option<NodeId>,
    key: Option<SubgridKey>,
}

/// What a member knows.
struct Own {
    certificate: Certificate,
    roster: Roster,
    rights: Rights,
    policy: Option<Document>,
    vos: Vos,
}

impl Own {
    fn new(certificate: Certificate, statements: Statements, now: u64) -> Self {
        let subgrid = certificate.terms().subgrid;
        let mut rights = Rights::new(subgrid);
        rights.learn(statements, now);
        let (roster, vos) = (Roster::new(subgrid), Vos::new(subgrid));
        Self { certificate, roster, rights, policy: None, vos }
    }

    /// Whether a certificate counts, whatever the time.
    fn voids(&self, certificate: &Certificate) -> Option<CertificateError> {
        let removed = || CertificateError::Removed { name: certificate.terms().name.clone() };
        self.rights.voids(certificate).map(|_| removed())
    }

    /// Takes what is said of a member, unless it was put out.
    fn learn(&mut self, heard: Member, now: u64) -> bool {
        self.voids(&heard.certificate).is_none() && self.roster.learn(heard, now)
    }
}

impl Book {
    /// Reads the store.
    pub async fn open(
        node_key: NodeKey,
        store: Arc<dyn Store>,
        key: Option<SubgridKey>,
        clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    ) -> Result<Self, Error> {
        let issuer = read(&store, ISSUER, "who let this node in").await?;
        let state = Mutex::new(State { key, issuer, ..State::default() });
        let changed = watch::Sender::new(0);
        let (one_at_a_time, vo_writes) = Default::default();
        let id = node_key.id();
        let book =
            Self { id, key: node_key, store, clock, state, changed, one_at_a_time, vo_writes };
        book.recall().await?;
        Ok(book)
    }

    /// Takes up the membership in the store.
    async fn recall(&self) -> Result<(), Error> {
        let store = &self.store;
        let own: Option<Certificate> = read(store, MEMBERSHIP, "the membership").await?;
        let Some(certificate) = own else { return Ok(()) };
        let (subgrid, now) = (certificate.terms().subgrid, self.now());
        let rights: Option<Statements> = read(store, RIGHTS, "list of rights").await?;
        let mut own = Own::new(certificate.clone(), rights.unwrap_or_default(), now);
        let holds = self.state().key.as_ref().is_some_and(|key| key.id() == subgrid);
        let checked = certificate.check_for_ever(self.id, subgrid);
        // Who holds the key need not heed what others say of its own membership.
        let voided = own.voids(&certificate).filter(|_| !holds);
        if let Err(error) = checked.and(voided.map_or(Ok(()), Err)) {
            // Apps at home here must stay within reach all the same.
            tracing::error!(%error, "the membership in the store does not hold");
            self.state().false_member = Some(error);
            return Ok(());
        }
        let listed = on_store(store, "list the members", |store| store.list(MEMBERS)).await?;
        for (_, bytes) in listed {
            // An entry that no longer decodes or holds is learned anew from other members.
            if let Ok(member) = postcard::from_bytes::<Member>(&bytes) {
                own.learn(member, now);
            }
        }
        own.learn(Member { certificate, addrs: vec![] }, now);
        own.policy = self.policies().await?.pop();
        let what = "list the virtual organisations";
        let stored = on_store(store, what, |store| store.list(VOS)).await?;
        own.recall_vos(&stored, now);
        self.state().own = Some(own);
        self.renew().await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn key(&self) -> &NodeKey {
        &self.key
    }

    pub fn now(&self) -> u64 {
        (self.clock)()
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn membership(&self) -> Option<Membership> {
        let state = self.state();
        let certificate = state.own.as_ref()?.certificate.clone();
        let authority = state.authority(&self.key);
        let founder = matches!(authority, Some(Authority::Holder(_)));
        Some(Membership { certificate, founder, may_accept: authority.is_some() })
    }

    /// The membership, or why there is none.
    pub fn standing(&self) -> Result<Membership, Error> {
        self.membership().ok_or_else(|| match &self.state().false_member {
            Some(error) => Error::FalseMember(error.clone()),
            None => Error::NotMember,
        })
    }

    pub fn members(&self) -> Vec<Member> {
        self.state().own.iter().flat_map(|own| own.roster.iter().cloned()).collect()
    }

    pub fn removed(&self) -> Vec<NodeId> {
        let state = self.state();
        let Some(own) = &state.own else { return Vec::new() };
        own.rights.removed().filter(|node| own.roster.get(*node).is_none()).collect()
    }

    pub fn member(&self, node: NodeId) -> Option<Member> {
        self.state().own.as_ref()?.roster.get(node).cloned()
    }

    /// Changes with [`Book::news`].
    pub fn digest(&self) -> Option<[[u8; 32]; 3]> {
        let state = self.state();
        let own = state.own.as_ref()?;
        let policy = own.policy.as_ref().map_or([0; 32], Document::digest);
        Some([own.roster.digest(), own.rights.digest(), policy])
    }

    /// What members tell each other, but for virtual organisations: see [`Book::vo_news`].
    pub fn news(&self) -> News {
        let state = self.state();
        let Some(own) = &state.own else { return News::default() };
        News {
            members: own.roster.iter().cloned().collect(),
            statements: own.rights.statements(),
            policy: own.policy.clone(),
            vos: Vec::new(),
        }
    }

    /// The policy document that counts.
    pub fn policy(&self) -> Option<Document> {
        self.state().own.as_ref()?.policy.clone()
    }

    /// The versions of the policy document that are kept, oldest first.
    pub async fn policies(&self) -> Result<Vec<Document>, Error> {
        let listed =
            on_store(&self.store, "list the policy documents", |store| store.list(POLICIES))
                .await?;
        // One that no longer decodes is learned anew from other members.
        Ok(listed.iter().filter_map(|(_, bytes)| postcard::from_bytes(bytes).ok()).collect())
    }

    /// Whether `certificate` counts at this time for the node that has proven to be `proven`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check(&self, certificate: &Certificate, proven: NodeId) -> Result<(), Error> {
        let state = self.state();
        let own = state.own.as_ref().ok_or(Error::NotMember)?;
        let subgrid = own.certificate.terms().subgrid;
        certificate.check_for(proven, subgrid, self.now())?;
        own.voids(certificate).map_or(Ok(()), |error| Err(error.into()))
    }

    /// As [`Book::check`] for a node of whatever sub-grid, which its certificate names. Of removals
    /// in others nothing is known here.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check_abroad(&self, certificate: &Certificate, proven: NodeId) -> Result<(), Error> {
        let theirs = certificate.terms().subgrid;
        if self.standing()?.subgrid() == theirs {
            return self.check(certificate, proven);
        }
        Ok(certificate.check_for(proven, theirs, self.now())?)
    }

    /// The members that may let others in, as far as known.
    pub fn acceptors(&self) -> Vec<Member> {
        let state = self.state();
        let Some(own) = &state.own else { return Vec::new() };
        let delegates = own.rights.delegates().filter_map(|node| own.roster.get(node));
        // Who let this node in may do so again.
        let issuer = state.issuer.and_then(|node| own.roster.get(node));
        let mut found: Vec<_> = issuer.into_iter().chain(delegates).cloned().collect();
        found.retain(|member| member.node() != self.id);
        found.dedup_by_key(|member| member.node());
        found
    }

    /// Makes this node the founder of a new sub-grid.
    pub async fn found(
        &self,
        key: SubgridKey,
        name: &str,
        addrs: Vec<PeerAddr>,
    ) -> Result<Membership, Error> {
        let certificate = issue::certificate(&(&key).into(), self.id, name, self.now(), 0)?;
        self.state().key = Some(key);
        self.enter(certificate, Default::default(), addrs, self.id).await
    }

    /// Becomes a member by `certificate`, which `issuer` gave, knowing what it said of others.
    pub async fn enter(
        &self,
        certificate: Certificate,
        news: News,
        addrs: Vec<PeerAddr>,
        issuer: NodeId,
    ) -> Result<Membership, Error> {
        let now = self.now();
        let subgrid = certificate.terms().subgrid;
        certificate.check_for(self.id, subgrid, now)?;
        let mut own = Own::new(certificate.clone(), news.statements, now);
        if let Some(error) = own.voids(&certificate) {
            return Err(error.into());
        }
        let this = Member { certificate: certificate.clone(), addrs };
        for member in news.members.into_iter().take(MAX_MEMBERS).chain([this]) {
            own.learn(member, now);
        }
        let members: Vec<_> = own.roster.iter().cloned().collect();
        let rights = encode(&own.rights.statements());
        let put = move |store: &dyn Store| {
            forget(store, &[MEMBERS, POLICIES, VOS])?;
            for member in &members {
                store.put(&member_key(member.node()), &encode(member))?;
            }
            store.put(RIGHTS, &rights)?;
            store.put(ISSUER, &encode(&issuer))?;
            store.put(MEMBERSHIP, &encode(&certificate))
        };
        on_store(&self.store, "record the membership", put).await?;
        {
            let mut state = self.state();
            state.own = Some(own);
            state.issuer = Some(issuer);
            state.false_member = None;
        }
        self.bump();
        if let Some(policy) = news.policy {
            self.obey(policy).await;
        }
        self.standing()
    }

    /// Forgets the sub-grid.
    pub async fn leave(&self) -> Result<(), Error> {
        let forget = |store: &dyn Store| {
            for key in [MEMBERSHIP, ISSUER, RIGHTS] {
                store.remove(key)?;
            }
            forget(store, &[MEMBERS, INVITATIONS, POLICIES, VOS])
        };
        on_store(&self.store, "forget the membership", forget).await?;
        {
            let mut state = self.state();
            (state.own, state.issuer, state.false_member) = (None, None, None);
        }
        self.bump();
        Ok(())
    }

    async fn save(&self, member: &Member) -> Result<(), Error> {
        let (key, bytes) = (member_key(member.node()), encode(member));
        on_store(&self.store, "record a member", move |store| store.put(&key, &bytes)).await
    }

    fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl State {
    /// How this node may speak for its sub-grid, if it may.
    fn authority(&self, node: &NodeKey) -> Option<Authority> {
        let own = self.own.as_ref()?;
        let subgrid = own.certificate.terms().subgrid;
        match &self.key {
            Some(key) if key.id() == subgrid => Some(Authority::Holder(key.clone())),
            _ => {
                let delegation = own.rights.delegation(node.id())?.clone();
                Some(Authority::Delegate(node.clone(), delegation))
            }
        }
    }
}

fn member_key(node: NodeId) -> String {
    format!("{MEMBERS}{node}")
}

fn forget(store: &dyn Store, prefixes: &[&str]) -> Result<(), StoreError> {
    for prefix in prefixes {
        for (key, _) in store.list(prefix)? {
            store.remove(&key)?;
        }
    }
    Ok(())
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

//! What other members say is taken, checked and kept.

use phantom_model::NodeId;

use super::{
    Book, KEPT_POLICIES, MEMBERSHIP, News, Own, POLICIES, RIGHTS, encode, member_key, on_store,
};
use crate::error::Error;
use crate::link::PeerAddr;
use crate::member::{Authority, Document, MAX_MEMBERS, Member, Statements};
use crate::store::Store;

impl Book {
    /// Takes what a peer knows.
    pub async fn hear(&self, news: News) {
        // A right that is withdrawn comes with the certificates that replace what it gave.
        self.learn(news.members).await;
        self.heed(news.statements).await;
        if let Some(policy) = news.policy {
            self.obey(policy).await;
        }
        self.hear_vos(news.vos).await;
    }

    /// Takes what a peer says about members.
    pub async fn learn(&self, heard: Vec<Member>) {
        self.take(heard, |own, member, now| own.learn(member, now)).await;
    }

    /// Takes what a peer says about itself.
    pub async fn announce(&self, itself: Member) {
        self.take(vec![itself], |own, member, now| {
            own.voids(&member.certificate).is_none() && own.roster.announce(member, now)
        })
        .await;
    }

    async fn take(&self, heard: Vec<Member>, learn: impl Fn(&mut Own, Member, u64) -> bool) {
        let now = self.now();
        let mut changed = Vec::new();
        let mut renewed = None;
        if let Some(own) = &mut self.state().own {
            for member in heard.into_iter().take(MAX_MEMBERS) {
                let node = member.node();
                if !learn(own, member, now) {
                    continue;
                }
                let known = own.roster.get(node).cloned();
                // Others may say where this node is, but it knows better; a new certificate counts.
                if node == self.id {
                    renewed = known.filter(|known| known.certificate != own.certificate);
                }
                changed.extend(own.roster.get(node).cloned());
            }
            if let Some(member) = &renewed {
                own.certificate = member.certificate.clone();
            }
        }
        if let Some(member) = renewed {
            let put = move |store: &dyn Store| store.put(MEMBERSHIP, &encode(&member.certificate));
            if let Err(error) = on_store(&self.store, "renew the membership", put).await {
                tracing::warn!(%error, "the membership is renewed but not recorded");
            }
        }
        self.record(changed).await;
    }

    /// Takes what a peer says of rights given and taken, and parts from those that were put out.
    async fn heed(&self, heard: Statements) {
        let now = self.now();
        {
            let mut state = self.state();
            let Some(own) = &mut state.own else { return };
            if !own.rights.learn(heard, now) {
                return;
            }
        }
        if let Err(error) = self.apply_rights().await {
            tracing::warn!(%error, "rights given or taken are known but not recorded");
        }
    }

    /// Lets go of members that were put out, this node among them, and records the rights.
    pub(super) async fn apply_rights(&self) -> Result<(), Error> {
        let (rights, gone, void) = {
            let mut state = self.state();
            let Some(own) = &mut state.own else { return Ok(()) };
            let is_void = |member: &&Member| own.rights.voids(&member.certificate).is_some();
            let gone: Vec<_> = own.roster.iter().filter(is_void).map(Member::node).collect();
            for node in gone.iter().filter(|node| **node != self.id) {
                own.roster.remove(*node);
            }
            let rights = own.rights.statements();
            let void = own.vos.prune(&own.rights);
            let voided = own.voids(&own.certificate);
            if let Some(error) = voided {
                let holds =
                    state.authority(&self.key).is_some_and(|by| matches!(by, Authority::Holder(_)));
                if !holds {
                    tracing::warn!("this node was removed from its sub-grid");
                    (state.own, state.false_member) = (None, Some(error));
                }
            }
            (rights, gone, void)
        };
        let put = move |store: &dyn Store| {
            store.put(RIGHTS, &encode(&rights))?;
            gone.iter().try_for_each(|node| store.remove(&member_key(*node)))
        };
        let recorded = on_store(&self.store, "record rights", put).await;
        let recorded = recorded.and(self.record_vos(void).await);
        self.bump();
        recorded?;
        self.renew().await
    }

    /// Remembers over which address `node` was just reached.
    pub async fn worked(&self, node: NodeId, addr: &PeerAddr) {
        let changed = {
            let mut state = self.state();
            let Some(own) = &mut state.own else {
                return;
            };
            if !own.roster.worked(node, addr) {
                return;
            }
            own.roster.get(node).cloned()
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

    /// Takes a policy document, if it is genuine and newer than the one known.
    pub(super) async fn obey(&self, heard: Document) {
        let now = self.now();
        {
            let mut state = self.state();
            let Some(own) = &mut state.own else { return };
            let subgrid = own.certificate.terms().subgrid;
            let newer = own.policy.as_ref().is_none_or(|known| heard.replaces(known));
            if !newer || !heard.is_genuine(subgrid, now) {
                return;
            }
            own.policy = Some(heard.clone());
        }
        tracing::info!(version = heard.version(), "a new policy document");
        self.bump();
        if let Err(error) = self.keep_policy(heard).await {
            tracing::warn!(%error, "the policy document is obeyed but not recorded");
        }
    }

    pub(super) async fn keep_policy(&self, policy: Document) -> Result<(), Error> {
        let put = move |store: &dyn Store| {
            store.put(&format!("{POLICIES}{:020}", policy.version()), &encode(&policy))?;
            let kept = store.list(POLICIES)?;
            let over = kept.len().saturating_sub(KEPT_POLICIES);
            kept.iter().take(over).try_for_each(|(key, _)| store.remove(key))
        };
        on_store(&self.store, "record the policy document", put).await
    }
}

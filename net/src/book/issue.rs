//! What a node does that may speak for its sub-grid: let others in, put members out, renew.

use phantom_model::NodeId;

use super::{Book, INVITATIONS, Own, encode, on_store, read};
use crate::error::Error;
use crate::link::PeerAddr;
use crate::member::{
    Authority, Certificate, Decision, Delegation, Document, Invitation, JoinAsk, JoinRefusal,
    MAX_DOCUMENT, MAX_MEMBERS, Member, Removal, Scope, Statements, Terms, Token, TokenId,
    VALIDITY_S, decide,
};
use crate::region::Registration;
use crate::store::Store;

/// How long a used or expired invitation is remembered, for a node that asks again.
const KEEP_INVITATION_S: u64 = 24 * 3600;
/// How long before its end a certificate is renewed.
const RENEW_S: u64 = 60 * 24 * 3600;

impl Book {
    fn authority(&self) -> Option<Authority> {
        self.state().authority(&self.key)
    }

    pub(super) fn must_accept(&self) -> Result<Authority, Error> {
        self.standing()?;
        self.authority().ok_or_else(|| Error::MayNotAccept { who: self.who_may() })
    }

    fn must_hold_the_key(&self) -> Result<Authority, Error> {
        self.standing()?;
        let authority = self.authority().filter(|by| matches!(by, Authority::Holder(_)));
        authority.ok_or(Error::NotHolder)
    }

    /// The nodes that may let others in, in words.
    fn who_may(&self) -> String {
        let names: Vec<_> =
            self.acceptors().iter().map(|member| member.name().to_owned()).collect();
        match &names[..] {
            [] => "the node that founded this sub-grid".to_owned(),
            names => names.join(", "),
        }
    }

    /// Makes an invitation that holds for `ttl_s` seconds.
    pub async fn invite(&self, ttl_s: u64, addrs: Vec<PeerAddr>) -> Result<Token, Error> {
        let authority = self.must_accept()?;
        let now = self.now();
        self.sweep(now).await?;
        let token = Token {
            subgrid: authority.subgrid(),
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

    /// Answers a node that wants to join with a token: its certificate.
    pub async fn admit(&self, ask: JoinAsk, joiner: NodeId) -> Result<Certificate, JoinRefusal> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let internal = |error: Error| internal(&error, joiner);
        let membership = self.membership().ok_or(JoinRefusal::OtherSubgrid)?;
        let authority = self.authority().ok_or(JoinRefusal::MayNot)?;
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
                let issued = self.issue(&authority, joiner, &ask.name)?;
                // Durable before the joiner has it: a crash in between burns nothing, the
                // same node asks again and gets the same certificate.
                let used = Invitation { used: Some(issued.clone()), ..invitation };
                self.keep(ask.token, &used).await.map_err(internal)?;
                issued
            }
        };
        self.announce(Member { certificate: certificate.clone(), addrs: ask.addrs }).await;
        Ok(certificate)
    }

    /// Lets `joiner` in, whom the owner has accepted.
    pub async fn let_in(
        &self,
        joiner: NodeId,
        name: &str,
        addrs: Vec<PeerAddr>,
    ) -> Result<Certificate, Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let authority = self.must_accept()?;
        let certificate = self.issue(&authority, joiner, name).map_err(Error::CannotLetIn)?;
        let member = Member { certificate: certificate.clone(), addrs };
        // Durable before the joiner has it.
        self.save(&member).await?;
        self.announce(member).await;
        Ok(certificate)
    }

    fn issue(
        &self,
        by: &Authority,
        joiner: NodeId,
        wanted: &str,
    ) -> Result<Certificate, JoinRefusal> {
        let state = self.state();
        let own = state.own.as_ref().ok_or(JoinRefusal::OtherSubgrid)?;
        if own.roster.len() >= MAX_MEMBERS && own.roster.get(joiner).is_none() {
            return Err(JoinRefusal::Full);
        }
        let name = own.roster.free_name(wanted, joiner);
        let serial = own.next_serial(joiner, self.now());
        certificate(by, joiner, &name, self.now(), serial).map_err(|error| internal(&error, joiner))
    }

    /// Puts a member out: its certificate is void from now on.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let authority = self.must_accept()?;
        if node == self.id {
            return Err(Error::OwnRemoval);
        }
        let member = self.member(node).ok_or(Error::UnknownPeer(node))?;
        // Whatever it was given until now, known here or not.
        let known = member.certificate.terms().serial.max(self.now());
        let delegated = self.delegation(node).map_or(0, |delegation| delegation.serial());
        self.take_away(&authority, node, Scope::Member, known.max(delegated)).await
    }

    fn delegation(&self, node: NodeId) -> Option<Delegation> {
        self.state().own.as_ref()?.rights.delegation(node).cloned()
    }

    /// Makes a member a delegate, who may let others in and put members out.
    pub async fn delegate(&self, node: NodeId) -> Result<(), Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let Authority::Holder(key) = self.must_hold_the_key()? else {
            return Err(Error::NotHolder);
        };
        self.member(node).ok_or(Error::UnknownPeer(node))?;
        if node == self.id || self.delegation(node).is_some() {
            return Ok(());
        }
        let serial = {
            let state = self.state();
            let own = state.own.as_ref().ok_or(Error::NotMember)?;
            own.next_serial(node, self.now())
        };
        let delegations = vec![Delegation::issue(&key, node, serial)];
        self.state_rights(Statements { delegations, removals: Vec::new() }).await
    }

    /// Takes the right to let others in from a delegate. Whom it has let in stays, by a new
    /// certificate of the sub-grid's key.
    pub async fn withdraw(&self, node: NodeId) -> Result<(), Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let authority = self.must_hold_the_key()?;
        let delegation = self.delegation(node).ok_or(Error::NoDelegate(node))?;
        self.take_away(&authority, node, Scope::Delegate, delegation.serial()).await
    }

    async fn take_away(
        &self,
        by: &Authority,
        node: NodeId,
        scope: Scope,
        serial: u64,
    ) -> Result<(), Error> {
        let now = self.now();
        let mut removals = vec![Removal::issue(by, node, scope, serial, now)];
        if matches!(by, Authority::Holder(_)) {
            // What a delegate has signed is void with its delegation: the key says it again.
            let stays = |member: &Member| scope == Scope::Delegate || member.node() != node;
            self.sign_anew(by, |member| {
                let signer = member.certificate.seal().delegation().map(Delegation::node);
                signer == Some(node) && stays(member)
            })
            .await?;
            self.seal_vos_anew(by, node).await?;
            let said = self.state().own.as_ref().map(|own| own.rights.removals_by(node));
            removals.extend(said.into_iter().flatten().map(|removal| {
                Removal::issue(by, removal.node(), Scope::Member, removal.serial(), now)
            }));
        }
        self.state_rights(Statements { removals, delegations: Vec::new() }).await
    }

    /// Makes statements of this node's own and records them.
    async fn state_rights(&self, statements: Statements) -> Result<(), Error> {
        let now = self.now();
        if let Some(own) = &mut self.state().own {
            own.rights.learn(statements, now);
        }
        self.apply_rights().await
    }

    /// Makes `text` the policy document, one version on. `seen` is the version it was made from.
    pub async fn decree(&self, text: String, seen: u64) -> Result<Document, Error> {
        let _one_at_a_time = self.one_at_a_time.lock().await;
        let Authority::Holder(key) = self.must_hold_the_key()? else {
            return Err(Error::NotHolder);
        };
        if text.len() > MAX_DOCUMENT {
            return Err(Error::LongPolicy { bytes: text.len() });
        }
        let version = self.policy().map_or(0, |known| known.version());
        if version != seen {
            return Err(Error::StalePolicy { seen, version });
        }
        let document = Document::sign(&key, version.saturating_add(1), self.now(), text);
        // Durable before anybody obeys it.
        self.keep_policy(document.clone()).await?;
        self.obey(document.clone()).await;
        Ok(document)
    }

    /// Renews what this node may: the certificates of members that end before long, and its own
    /// if it holds the key, even if it is over or somebody has put it out.
    pub async fn renew(&self) -> Result<(), Error> {
        let Some(authority) = self.authority() else { return Ok(()) };
        let holder = matches!(authority, Authority::Holder(_));
        let now = self.now();
        // Delegates come in when the key has not.
        let end = now.saturating_add(if holder { RENEW_S } else { RENEW_S / 2 });
        self.sign_anew(&authority, |member| {
            let expires = member.certificate.terms().expires;
            let lost = || expires <= now || self.voids(&member.certificate);
            expires <= end && expires > now || holder && member.node() == self.id && lost()
        })
        .await
    }

    /// Seals the sub-grid's wish to be let into a region, or to leave it.
    pub fn register(
        &self,
        region: &str,
        key: [u8; 32],
        name: &str,
        leaves: bool,
    ) -> Result<Registration, Error> {
        let authority = self.must_accept()?;
        Ok(Registration::sign(&authority, region, key, name, self.now(), leaves)?)
    }

    fn voids(&self, certificate: &Certificate) -> bool {
        self.state().own.as_ref().is_some_and(|own| own.voids(certificate).is_some())
    }

    /// Issues new certificates for the members that `wanted` picks.
    async fn sign_anew(
        &self,
        by: &Authority,
        wanted: impl Fn(&Member) -> bool,
    ) -> Result<(), Error> {
        let mut members = self.members();
        if !members.iter().any(|member| member.node() == self.id)
            && let Some(membership) = self.membership()
        {
            members.push(Member { certificate: membership.certificate, addrs: Vec::new() });
        }
        let mut renewed = Vec::new();
        for member in members.into_iter().filter(|member| wanted(member)) {
            let Terms { node, name, serial, .. } = member.certificate.terms();
            let next = {
                let state = self.state();
                let own = state.own.as_ref().ok_or(Error::NotMember)?;
                own.next_serial(*node, self.now()).max(serial.saturating_add(1))
            };
            let certificate = certificate(by, *node, name, self.now(), next)?;
            renewed.push(Member { certificate, addrs: Vec::new() });
        }
        self.learn(renewed).await;
        Ok(())
    }
}

impl Own {
    /// The least serial with which a certificate or delegation of `node` will count.
    fn next_serial(&self, node: NodeId, now: u64) -> u64 {
        let given = self.roster.get(node).map(|known| known.certificate.terms().serial);
        let next = given.map_or(0, |serial| serial.saturating_add(1));
        self.rights.next_serial(node, now).max(next)
    }
}

fn internal(error: &Error, joiner: NodeId) -> JoinRefusal {
    tracing::error!(%error, joiner = %joiner.short(), "a join failed");
    JoinRefusal::Internal
}

/// A certificate for a year from `now`, with at least that serial.
pub(super) fn certificate(
    by: &Authority,
    node: NodeId,
    name: &str,
    now: u64,
    serial: u64,
) -> Result<Certificate, Error> {
    let terms = Terms {
        subgrid: by.subgrid(),
        node,
        name: name.to_owned(),
        not_before: now,
        expires: now.saturating_add(VALIDITY_S),
        serial: serial.max(now),
    };
    Ok(Certificate::issue(by, terms)?)
}

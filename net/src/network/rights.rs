//! Asking to be let in, and letting in, removing, delegating.

use phantom_model::NodeId;
use tokio::sync::watch;

use super::Network;
use crate::book::Membership;
use crate::error::Error;
use crate::join::request::{self, Asked, Asking};
use crate::link::PeerAddr;
use crate::member::{Code, Document, Member, Note, Request};
use crate::peer::dial;
use crate::region::Registration;

impl Network {
    /// Asks the member `asked`, to be reached at `addrs`, to let this node in as `name`. If it may
    /// not, those are asked that it says may.
    ///
    /// # Errors
    /// This node is a member already, nobody who may let it in can be reached, or the request is
    /// refused at once.
    pub async fn ask(&self, asked: NodeId, addrs: &[PeerAddr], name: &str) -> Result<Asked, Error> {
        self.not_yet_member()?;
        let outcome = request::ask(&self.inner, asked, addrs, name).await?;
        if let Asked::Joined(_) = &outcome {
            self.meet(asked);
        }
        Ok(outcome)
    }

    /// Waits until a request is accepted.
    ///
    /// # Errors
    /// It is denied, or the asked member is out of reach for too long.
    pub async fn answered(&self, asking: Asking) -> Result<Membership, Error> {
        let asked = asking.asked_node();
        let membership = asking.answer().await?;
        self.meet(asked);
        Ok(membership)
    }

    /// Nodes that wait here to be let in, oldest first.
    pub fn requests(&self) -> Vec<Request> {
        self.inner.requests.desk().requests(self.inner.book.now())
    }

    /// Counts changes of [`Network::requests`].
    pub fn request_changes(&self) -> watch::Receiver<u64> {
        self.inner.requests.changes()
    }

    /// Lets in the node that shows `code`. Returns its certificate's name.
    ///
    /// # Errors
    /// Nobody with that code waits, this node may let nobody in, or the store cannot be written.
    pub async fn accept_request(&self, code: Code) -> Result<String, Error> {
        let inner = &self.inner;
        let request = inner.requests.find(code, inner.book.now())?;
        let certificate = inner.book.let_in(request.node, &request.name, request.addrs).await?;
        inner.requests.bump();
        tracing::info!(joiner = %request.node.short(), name = certificate.terms().name, "accepted");
        Ok(certificate.terms().name.clone())
    }

    /// Refuses the node that shows `code`. Returns the name it asked for.
    ///
    /// # Errors
    /// Nobody with that code waits.
    pub fn deny_request(&self, code: Code) -> Result<String, Error> {
        let inner = &self.inner;
        let request = inner.requests.find(code, inner.book.now())?;
        inner.requests.desk().deny(request.node);
        inner.requests.bump();
        Ok(request.name)
    }

    /// Puts a member out of the sub-grid. All members part from it as they hear of it.
    ///
    /// # Errors
    /// It is no member or this node itself, this node may not, or the store cannot be written.
    pub async fn remove(&self, node: NodeId) -> Result<(), Error> {
        self.inner.book.remove(node).await
    }

    /// Gives a member the right to let others in and to remove them.
    ///
    /// # Errors
    /// It is no member, this node does not hold the sub-grid's key, or the store cannot be written.
    pub async fn delegate(&self, node: NodeId) -> Result<(), Error> {
        self.inner.book.delegate(node).await
    }

    /// Takes that right back. Whom the delegate has let in stays, whom it has removed stays out.
    ///
    /// # Errors
    /// It has no such right, this node does not hold the sub-grid's key, or the store cannot be
    /// written.
    pub async fn withdraw(&self, node: NodeId) -> Result<(), Error> {
        self.inner.book.withdraw(node).await
    }

    /// The policy document that counts here; [`Network::member_changes`] tells when it changes.
    pub fn policy(&self) -> Option<Document> {
        self.inner.book.policy()
    }

    /// The versions of the policy document that this node has seen, oldest first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn policies(&self) -> Result<Vec<Document>, Error> {
        self.inner.book.policies().await
    }

    /// Signs `text` as the next version of the policy document and tells all members. `seen` is the
    /// version it was made from, 0 where there was none.
    ///
    /// # Errors
    /// This node does not hold the sub-grid's key, another version counts by now, the text is too
    /// long, or the store cannot be written.
    pub async fn decree(&self, text: String, seen: u64) -> Result<Document, Error> {
        self.inner.book.decree(text, seen).await
    }

    /// Signs `body` as a member, so that whoever gets it, however, can tell whose word it is.
    ///
    /// # Errors
    /// This node is no member.
    pub fn note(&self, body: Vec<u8>) -> Result<Note, Error> {
        let membership = self.standing()?;
        Ok(Note::sign(self.inner.book.key(), membership.certificate, body))
    }

    /// Whether a note that was found genuine is by one who is a member here, at this time.
    ///
    /// # Errors
    /// Why not.
    pub fn vouch(&self, note: &Note) -> Result<(), Error> {
        self.inner.book.check(note.certificate(), note.node())
    }

    /// Asks in the sub-grid's name that the region of this domain name and key lets it in as `name`,
    /// or says that it leaves.
    ///
    /// # Errors
    /// This node may not speak for its sub-grid (only who may let others in may), or one of the
    /// names is none.
    pub async fn register(
        &self,
        region: &str,
        key: [u8; 32],
        name: &str,
        leaves: bool,
    ) -> Result<Registration, Error> {
        self.inner.book.register(region, key, name, leaves)
    }

    /// What this node's clock says, in seconds since 1970.
    pub fn now(&self) -> u64 {
        self.inner.book.now()
    }

    /// The secret this node shares with `peer` for use in `context`: see
    /// [`NodeKey::shared_with`](crate::NodeKey::shared_with).
    pub fn shared_with(&self, peer: NodeId, context: &str) -> Option<[u8; 32]> {
        self.inner.book.key().shared_with(peer, context)
    }

    /// Somebody may have seen `node` at `addr`: it is dialled there too, unless it is connected.
    pub fn hint(&self, node: NodeId, addr: PeerAddr) {
        dial::hint(&self.inner, node, addr);
    }

    /// The other members that are known to be able to let others in.
    pub fn acceptors(&self) -> Vec<Member> {
        self.inner.book.acceptors()
    }
}

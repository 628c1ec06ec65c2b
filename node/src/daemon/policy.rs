//! The sub-grid's policy: read from the document that counts, and obeyed.

use std::sync::{Arc, Mutex, PoisonError};

use phantom_broker::Rules;
use phantom_model::{AppRecord, Policy};
use phantom_net::member::Document;

use super::{Daemon, Refusal};
use crate::api::types::{PolicyRequest, PolicyRow};

/// The policy as it was last read, and from which version.
#[derive(Default)]
pub struct Policies(Mutex<(u64, Arc<Policy>)>);

impl Policies {
    /// The policy `document` holds. One that this version of Phantom cannot read changes nothing:
    /// the last that could be read goes on to count.
    fn read(&self, document: Option<Document>) -> Arc<Policy> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let version = document.as_ref().map_or(0, Document::version);
        if last.0 != version {
            match document.map_or(Ok(Policy::default()), |document| document.text().parse()) {
                Ok(policy) => last.1 = Arc::new(policy),
                Err(error) => tracing::error!(
                    version, %error, "the policy cannot be obeyed; a newer Phantom may be needed"
                ),
            }
            last.0 = version;
        }
        last.1.clone()
    }
}

impl Daemon {
    /// The policy that counts, whoever is connected.
    pub fn policy(&self) -> Arc<Policy> {
        self.policies.read(self.network.policy())
    }

    /// What the policy says of an app depends on this.
    pub fn rules(&self, record: &AppRecord) -> Rules {
        Rules {
            policy: self.policy(),
            user: record.spec.user.user.clone(),
            groups: record.spec.user.group_names.clone(),
            home: self.members.name(record.home),
            vo: record.spec.vo.as_ref().map(|vo| self.organisation(vo)),
            vos: self.vo_members(),
        }
    }

    /// Answers `phantom policy show`.
    pub fn policy_row(&self) -> Result<PolicyRow, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let none = || PolicyRow { version: 0, signed_unix_s: 0, text: String::new(), counts: true };
        Ok(self.network.policy().map_or_else(none, |document| row(&document, true)))
    }

    /// Answers `phantom policy history`, oldest first.
    pub async fn policy_history(&self) -> Result<Vec<PolicyRow>, Refusal> {
        self.network.standing().map_err(Refusal::failed)?;
        let now = self.network.policy().map_or(0, |document| document.version());
        let documents = self.network.policies().await.map_err(Refusal::failed)?;
        Ok(documents.iter().map(|document| row(document, document.version() == now)).collect())
    }

    /// Signs the next version, if it makes sense.
    pub async fn decree(&self, request: PolicyRequest) -> Result<PolicyRow, Refusal> {
        let policy = request.text.parse::<Policy>().map_err(Refusal::usage)?;
        let known = self.vo_members();
        if let Some(vo) = policy.vos().into_iter().find(|vo| !known.contains_key(*vo)) {
            return Err(Refusal::usage(format!(
                "the policy names the virtual organisation `{vo}`, and none of that name is known: \
                 `phantom vo list` shows those that are"
            )));
        }
        let document =
            self.network.decree(request.text, request.seen).await.map_err(Refusal::failed)?;
        Ok(row(&document, true))
    }
}

fn row(document: &Document, counts: bool) -> PolicyRow {
    PolicyRow {
        version: document.version(),
        signed_unix_s: document.at(),
        text: document.text().to_owned(),
        counts,
    }
}

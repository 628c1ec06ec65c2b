//! Joining with a token from `phantom invite`.

use std::sync::Arc;

use phantom_model::NodeId;
use tokio::io::AsyncWriteExt;

use super::{Answer, MAX_ANSWER, MAX_QUESTION, Question, Welcome, check_name};
use crate::book::Membership;
use crate::error::Error;
use crate::link::{CloseCode, LinkError, PeerAddr, Protocol, Stream};
use crate::member::{JoinAsk, MAX_ADDRS, Token, proof};
use crate::network::Inner;
use crate::service::bounded;
use crate::wire::{FrameError, read_frame, write_frame};

/// Joins with `token`.
pub(crate) async fn ask(
    inner: &Arc<Inner>,
    token: &Token,
    name: &str,
) -> Result<Membership, Error> {
    let what = "joining";
    let inviter = token.inviter;
    token.check(inner.book.now())?;
    check_name(name)?;
    let unreachable = |source: LinkError| {
        let error = Error::Unreachable {
            peer: inviter,
            after: inner.config.timing.handshake,
            reason: source.to_string(),
        };
        match other_relay(inner, token) {
            Some(url) => Error::NeedsRelay { url, source: Box::new(error) },
            None => error,
        }
    };
    let connection =
        inner.link.dial(inviter, &token.addrs, Protocol::Join).await.map_err(unreachable)?;
    let addrs = inner.link.addrs().await;
    let ask = JoinAsk {
        token: token.id(),
        subgrid: token.subgrid,
        proof: proof(&token.secret, token.subgrid, inviter, inner.id),
        name: name.to_owned(),
        addrs: addrs.iter().take(MAX_ADDRS).cloned().collect(),
        now: inner.book.now(),
    };
    let mut stream =
        connection.open().await.map_err(|source| Error::Cut { peer: inviter, what, source })?;
    let work = async {
        write_frame(&mut stream, &Question::Token(ask), MAX_QUESTION).await?;
        stream.shutdown().await?;
        read_frame::<Answer>(&mut stream, MAX_ANSWER).await
    };
    let answer = bounded(inviter, what, inner.config.timing.handshake, work).await;
    connection.close(CloseCode::Done, "joined");
    let Welcome { certificate, mut news } = match answer? {
        Answer::Welcome(welcome) => *welcome,
        Answer::Refused(refusal) => return Err(Error::Refused { inviter, refusal }),
        Answer::Nonce(_) | Answer::Elsewhere(_) | Answer::Stands => {
            return Err(super::unfitting(inviter, what));
        }
    };
    certificate.check_for(inner.id, token.subgrid, inner.book.now())?;
    // The inviter's addresses in the token have just worked.
    if let Some(known) = news.members.iter_mut().find(|member| member.node() == inviter) {
        known.addrs.splice(0..0, token.addrs.iter().cloned());
    }
    inner.book.enter(certificate, news, addrs, inviter).await
}

/// The relay the invitation leads through, if it is not this node's own.
fn other_relay(inner: &Inner, token: &Token) -> Option<String> {
    let own = inner.link.relay().map(|relay| relay.url);
    token.addrs.iter().find_map(|addr| match addr {
        PeerAddr::Relay(url) if own.as_ref() != Some(url) && addr.is_sane() => Some(url.clone()),
        _ => None,
    })
}

/// Answers an ask with a token.
pub(super) async fn respond(
    inner: &Arc<Inner>,
    joiner: NodeId,
    stream: &mut Stream,
    ask: JoinAsk,
) -> Result<(), FrameError> {
    let answer = match inner.book.admit(ask, joiner).await {
        Ok(certificate) => {
            tracing::info!(joiner = %joiner.short(), name = certificate.terms().name, "joined");
            Welcome::answer(inner, certificate)
        }
        Err(refusal) => {
            tracing::info!(joiner = %joiner.short(), %refusal, "a join was refused");
            Answer::Refused(refusal)
        }
    };
    write_frame(stream, &answer, MAX_ANSWER).await?;
    stream.shutdown().await?;
    Ok(())
}

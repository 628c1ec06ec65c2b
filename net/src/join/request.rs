//! Joining by a request that somebody accepts: see [`crate::member`]'s desk for the exchange.
//!
//! Both sides keep the connection until there is an answer. The joiner makes it anew as often as it
//! is lost, and shows the same code.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use phantom_model::{NodeId, SubgridId};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};

use super::{Answer, MAX_ANSWER, MAX_QUESTION, Question, Welcome, check_name};
use crate::book::Membership;
use crate::error::Error;
use crate::link::{CloseCode, Connection, LinkError, PeerAddr, Protocol, Stream};
use crate::member::{
    Certificate, Code, Desk, JoinRefusal, MAX_ADDRS, Opening, REQUEST_S, Request, commitment,
};
use crate::network::Inner;
use crate::service::bounded;
use crate::wire::{FrameError, read_frame, write_frame};

/// How often a member that waits notes that the joiner is still there.
const STILL_THERE: Duration = Duration::from_secs(30);
/// To so many other members a joiner goes on when the first may let nobody in.
const MOST_ELSEWHERE: usize = 8;
const WHAT: &str = "asking to join";

/// The asked side's part of the code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Nonce {
    subgrid: SubgridId,
    /// What the asked member is called.
    name: String,
    nonce: [u8; 16],
}

/// The joiner's part of the code.
#[derive(Debug, Serialize, Deserialize)]
struct Reveal([u8; 16]);

/// The desk of this node, and a count that grows when something there has changed.
pub(crate) struct Requests {
    desk: Mutex<Desk>,
    changed: watch::Sender<u64>,
}

impl Default for Requests {
    fn default() -> Self {
        Self { desk: Mutex::default(), changed: watch::Sender::new(0) }
    }
}

impl Requests {
    pub fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn bump(&self) {
        self.changed.send_modify(|count| *count += 1);
    }

    /// The one request with that code.
    pub fn find(&self, code: Code, now: u64) -> Result<Request, Error> {
        let found = self.desk().requests(now).into_iter().find(|request| request.code == code);
        found.ok_or(Error::NoRequest(code))
    }
}

/// A request on its way. Its code is to be shown; [`Asking::answer`] waits for the end.
pub struct Asking {
    plea: Plea,
    connection: Arc<dyn Connection>,
    stream: Stream,
}

/// What was asked of whom: enough to ask again.
struct Plea {
    inner: Arc<Inner>,
    asked: NodeId,
    addrs: Vec<PeerAddr>,
    name: String,
    nonce: [u8; 16],
    theirs: Nonce,
    code: Code,
}

/// What came of asking to be let in.
pub enum Asked {
    /// Somebody there has to accept.
    Waits(Box<Asking>),
    /// The node had been accepted before.
    Joined(Membership),
}

/// How a question was taken.
enum Taken {
    Asking(Box<Asking>),
    Welcome(Box<Welcome>),
    Elsewhere(Vec<(NodeId, Vec<PeerAddr>)>),
}

/// Asks the member `asked` to be let in under `name`, or those that it says may.
pub(crate) async fn ask(
    inner: &Arc<Inner>,
    asked: NodeId,
    addrs: &[PeerAddr],
    name: &str,
) -> Result<Asked, Error> {
    check_name(name)?;
    let nonce = rand::random();
    let mut last = Error::Refused { inviter: asked, refusal: JoinRefusal::MayNot };
    let mut left = VecDeque::from([(asked, addrs.to_vec())]);
    let mut first = true;
    while let Some((asked, addrs)) = left.pop_front() {
        match put(inner, asked, &addrs, name, nonce).await {
            Ok(Taken::Asking(asking)) => return Ok(Asked::Waits(asking)),
            Ok(Taken::Welcome(welcome)) => {
                return enter(inner, asked, &addrs, *welcome).await.map(Asked::Joined);
            }
            // Only the first is believed about others: nobody is sent in circles.
            Ok(Taken::Elsewhere(others)) if first => left.extend(others),
            Ok(Taken::Elsewhere(_)) => {}
            Err(error) => last = error,
        }
        first = false;
    }
    Err(last)
}

/// Becomes a member.
async fn enter(
    inner: &Arc<Inner>,
    asked: NodeId,
    addrs: &[PeerAddr],
    welcome: Welcome,
) -> Result<Membership, Error> {
    let Welcome { certificate, mut news } = welcome;
    // These addresses have just worked.
    if let Some(known) = news.members.iter_mut().find(|member| member.node() == asked) {
        known.addrs.splice(0..0, addrs.iter().cloned());
    }
    let own = inner.link.addrs().await;
    inner.book.enter(certificate, news, own, asked).await
}

async fn put(
    inner: &Arc<Inner>,
    asked: NodeId,
    addrs: &[PeerAddr],
    name: &str,
    nonce: [u8; 16],
) -> Result<Taken, Error> {
    let after = inner.config.timing.handshake;
    let unreachable =
        |source: LinkError| Error::Unreachable { peer: asked, after, reason: source.to_string() };
    let connection = inner.link.dial(asked, addrs, Protocol::Join).await.map_err(unreachable)?;
    let cut = |source| Error::Cut { peer: asked, what: WHAT, source };
    let mut stream = connection.open().await.map_err(cut)?;
    let opening = Opening {
        commitment: commitment(&nonce, inner.id, asked),
        name: name.to_owned(),
        addrs: inner.link.addrs().await.into_iter().take(MAX_ADDRS).collect(),
        now: inner.book.now(),
    };
    let work = async {
        write_frame(&mut stream, &Question::Request(opening), MAX_QUESTION).await?;
        stream.flush().await?;
        let answer = read_frame::<Answer>(&mut stream, MAX_ANSWER).await?;
        let Answer::Nonce(theirs) = answer else { return Ok((answer, None)) };
        write_frame(&mut stream, &Reveal(nonce), MAX_QUESTION).await?;
        stream.flush().await?;
        // A code is shown only once it can be accepted.
        Ok((read_frame::<Answer>(&mut stream, MAX_ANSWER).await?, Some(theirs)))
    };
    let answer = bounded(asked, WHAT, after, work).await;
    let refused = |refusal| Error::Refused { inviter: asked, refusal };
    match answer? {
        (Answer::Stands, Some(theirs)) => {
            let code = Code::of(theirs.subgrid, asked, inner.id, &theirs.nonce, &nonce);
            let (inner, addrs, name) = (inner.clone(), addrs.to_vec(), name.to_owned());
            let theirs = Nonce { name: crate::link::clean(theirs.name.as_bytes()), ..theirs };
            let plea = Plea { inner, asked, addrs, name, nonce, theirs, code };
            Ok(Taken::Asking(Box::new(Asking { plea, connection, stream })))
        }
        (Answer::Elsewhere(members), None) => {
            connection.close(CloseCode::Done, "asking elsewhere");
            let members = members.into_iter().take(MOST_ELSEWHERE);
            let sane = |addrs: Vec<PeerAddr>| {
                addrs.into_iter().filter(PeerAddr::is_sane).take(MAX_ADDRS).collect()
            };
            Ok(Taken::Elsewhere(
                members.map(|member| (member.node(), sane(member.addrs))).collect(),
            ))
        }
        (Answer::Refused(refusal), _) => Err(refused(refusal)),
        (Answer::Welcome(welcome), None) => {
            connection.close(CloseCode::Done, "joined");
            Ok(Taken::Welcome(welcome))
        }
        _ => Err(super::unfitting(asked, WHAT)),
    }
}

impl Asking {
    /// What both sides show.
    pub fn code(&self) -> Code {
        self.plea.code
    }

    /// The sub-grid that was asked.
    pub fn subgrid(&self) -> SubgridId {
        self.plea.theirs.subgrid
    }

    /// Which member was asked.
    pub fn asked_node(&self) -> NodeId {
        self.plea.asked
    }

    /// What the asked member calls itself. Nobody has vouched for that.
    pub fn asked(&self) -> &str {
        &self.plea.theirs.name
    }

    /// Waits until the request is accepted or denied, however often the connection breaks.
    ///
    /// # Errors
    /// It was denied, or the member was not to be reached for as long as a request stands.
    pub async fn answer(self) -> Result<Membership, Error> {
        let Self { mut plea, mut connection, mut stream } = self;
        let refused = |plea: &Plea, refusal| Error::Refused { inviter: plea.asked, refusal };
        loop {
            let answer = read_frame::<Answer>(&mut stream, MAX_ANSWER).await;
            connection.close(CloseCode::Done, "answered");
            match answer {
                Ok(Answer::Welcome(welcome)) => return plea.enter(*welcome).await,
                Ok(Answer::Refused(refusal)) => return Err(refused(&plea, refusal)),
                Ok(Answer::Nonce(_) | Answer::Elsewhere(_) | Answer::Stands) => {
                    return Err(super::unfitting(plea.asked, WHAT));
                }
                Err(error) => tracing::info!(%error, "the connection is gone: asking again"),
            }
            match plea.again().await? {
                Taken::Asking(asking) => Self { plea, connection, stream } = *asking,
                Taken::Welcome(welcome) => return plea.enter(*welcome).await,
                Taken::Elsewhere(_) => return Err(refused(&plea, JoinRefusal::MayNot)),
            }
        }
    }
}

impl Plea {
    async fn enter(&self, welcome: Welcome) -> Result<Membership, Error> {
        let subgrid = self.theirs.subgrid;
        welcome.certificate.check_for(self.inner.id, subgrid, self.inner.book.now())?;
        enter(&self.inner, self.asked, &self.addrs, welcome).await
    }

    /// Puts the same question again, until it is taken.
    async fn again(&self) -> Result<Taken, Error> {
        let timing = self.inner.config.timing;
        let end = Instant::now() + Duration::from_secs(REQUEST_S);
        let mut pause = timing.backoff_min;
        loop {
            sleep(pause).await;
            pause = (pause * 2).min(timing.backoff_max);
            match put(&self.inner, self.asked, &self.addrs, &self.name, self.nonce).await {
                // It has forgotten the request: whoever compares the codes would be misled.
                Ok(Taken::Asking(asking)) if asking.plea.code != self.code => {
                    let refusal = JoinRefusal::Unproven;
                    return Err(Error::Refused { inviter: self.asked, refusal });
                }
                Ok(taken) => return Ok(taken),
                Err(error @ Error::Refused { .. }) => return Err(error),
                Err(error) if Instant::now() >= end => return Err(error),
                Err(_) => {}
            }
        }
    }
}

/// Answers a request, once its owner has decided.
pub(super) async fn respond(
    inner: &Arc<Inner>,
    connection: &dyn Connection,
    mut stream: Stream,
    mut opening: Opening,
    place: OwnedSemaphorePermit,
) -> Result<(), FrameError> {
    let joiner = connection.peer();
    let limit = inner.config.timing.handshake;
    let path = connection.stats().path;
    opening.addrs.truncate(MAX_ADDRS);
    opening.addrs.retain(PeerAddr::is_sane);
    opening.addrs.splice(0..0, path.clone());
    let opened = timeout(limit, open(inner, joiner, &mut stream, opening, path)).await;
    let late = |_| FrameError::Io(std::io::ErrorKind::TimedOut.into());
    let Some(turn) = opened.map_err(late)?? else { return Ok(()) };
    // From here on the desk bounds how many wait.
    drop(place);
    let answer = tokio::select! {
        answer = decided(inner, joiner, turn) => answer,
        _ = connection.closed() => return Ok(()),
        () = inner.stop.cancelled() => return Ok(()),
    };
    let Some(answer) = answer else { return Ok(()) };
    timeout(limit, say(&mut stream, &answer)).await.map_err(late)?
}

/// Takes a request in, up to its code. `None` when that was answered otherwise.
async fn open(
    inner: &Arc<Inner>,
    joiner: NodeId,
    stream: &mut Stream,
    opening: Opening,
    from: Option<PeerAddr>,
) -> Result<Option<u64>, FrameError> {
    if let Some(certificate) = admitted(inner, joiner) {
        say(stream, &Welcome::answer(inner, certificate)).await?;
        return Ok(None);
    }
    let refused = match inner.book.membership() {
        None => Answer::Refused(JoinRefusal::MayNot),
        Some(membership) if !membership.may_accept => match inner.book.acceptors() {
            none if none.is_empty() => Answer::Refused(JoinRefusal::MayNot),
            acceptors => Answer::Elsewhere(acceptors.into_iter().take(MOST_ELSEWHERE).collect()),
        },
        Some(membership) => {
            let (fresh, now) = (rand::random(), inner.book.now());
            let name = opening.name.clone();
            let placed = inner.requests.desk().open(joiner, opening, from, fresh, now);
            match placed {
                Err(refusal) => Answer::Refused(refusal),
                Ok((nonce, turn)) => {
                    let subgrid = membership.subgrid();
                    let nonce = Nonce { subgrid, name: membership.name().to_owned(), nonce };
                    write_frame(stream, &Answer::Nonce(nonce), MAX_ANSWER).await?;
                    stream.flush().await?;
                    let Reveal(nonce) = read_frame(stream, MAX_QUESTION).await?;
                    let code = inner.requests.desk().reveal(joiner, &nonce, inner.id, subgrid);
                    match code {
                        Err(refusal) => Answer::Refused(refusal),
                        Ok(code) => {
                            write_frame(stream, &Answer::Stands, MAX_ANSWER).await?;
                            stream.flush().await?;
                            tracing::info!(joiner = %joiner.short(), name, %code, "asks to join");
                            inner.requests.bump();
                            return Ok(Some(turn));
                        }
                    }
                }
            }
        }
    };
    say(stream, &refused).await?;
    Ok(None)
}

/// The certificate of a node that is a member.
fn admitted(inner: &Inner, joiner: NodeId) -> Option<Certificate> {
    let certificate = inner.book.member(joiner)?.certificate;
    inner.book.check(&certificate, joiner).is_ok().then_some(certificate)
}

/// Waits for what is decided about a request; `None` when it is asked over another connection.
async fn decided(inner: &Arc<Inner>, joiner: NodeId, turn: u64) -> Option<Answer> {
    let mut changes = inner.requests.changes();
    loop {
        changes.mark_unchanged();
        if let Some(certificate) = admitted(inner, joiner) {
            inner.requests.desk().close(joiner);
            return Some(Welcome::answer(inner, certificate));
        }
        match inner.requests.desk().waits(joiner, turn, inner.book.now()) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(refusal) => return Some(Answer::Refused(refusal)),
        }
        let _ = timeout(STILL_THERE, changes.changed()).await;
    }
}

async fn say(stream: &mut Stream, answer: &Answer) -> Result<(), FrameError> {
    write_frame(stream, answer, MAX_ANSWER).await?;
    stream.shutdown().await?;
    Ok(())
}

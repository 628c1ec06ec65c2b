//! Questions between daemons and their answers, over the `control` service.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use phantom_discovery::region::View;
use phantom_model::app::OsText;
use phantom_model::handoff::{Addressed, Report, Request};
use phantom_model::{AppId, MoveId, NodeFacts, NodeId, Verdict};
use phantom_net::{BulkTicket, Incoming, ServiceId};
use serde::{Deserialize, Serialize};

use super::Daemon;
use super::apps::SHIM_DEADLINE;
use super::subgrid::Found;
use super::watch::Used;
use crate::api::types::{Diagnosis, FollowRow, TimelineRow};
use crate::shim::control::{Reply, Request as ShimRequest};

/// How long a question may take to arrive, or its answer to be sent.
const FRAME_DEADLINE: Duration = Duration::from_secs(10);
/// How long simple questions may take.
pub const ASK_DEADLINE: Duration = Duration::from_secs(10);

/// A question to another daemon.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// What do you say of yourself?
    Facts,
    /// A step of a move, from the app's home.
    Move(Addressed<Request>),
    /// A word on a move, to the app's home.
    Report(Addressed<Report>),
    /// From the source to the target: with which ticket may the image come?
    Ticket {
        /// The app.
        app: AppId,
        /// The move.
        id: MoveId,
    },
    /// From the source to the target, after a transfer broke: why could you not store the image?
    Arrival {
        /// The app.
        app: AppId,
        /// The move.
        id: MoveId,
    },
    /// From the home to the host: which files has the app mapped or open?
    MappedFiles(AppId),
    /// From the home to the host: what prevents a move, and what does it use?
    Obstacles(AppId),
    /// From the home to the host: signal the app.
    Signal(AppId, i32),
    /// From the home to a host: the app is no more, what is left of it must go.
    Ended(AppId),
    /// From the host to the home: the app exceeds a limit.
    Exceeds(AppId, Verdict, Vec<TimelineRow>),
    /// From the home to the host: nothing came of the app's verdict.
    Stays(AppId),
    /// Do so many steps of work from this seed: how fast are you?
    Work(u64, u32),
    /// So many bytes to see how fast the way is; they say nothing.
    Probe(Vec<u8>),
    /// From the host to the home: what the app uses.
    Reading(AppId, Used),
    /// To the super-peer: which nodes meet this ClassAd expression?
    Find(String),
    /// To the super-peer: how does our region stand?
    Region,
    /// To the super-peer: in which region do we lie?
    RegionName,
    /// To the super-peer: our region's admin has signed this charter.
    Charter(Vec<u8>),
    /// To the super-peer: how do the services stand that follow it?
    Follows,
    /// To the super-peer: which parts of this ClassAd expression fail on how many nodes?
    Why(String),
}

/// An answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Ask::Facts`].
    Facts(Box<NodeFacts>),
    /// To [`Ask::Ticket`].
    Ticket(BulkTicket),
    /// To [`Ask::Arrival`]; absent where it was not the storing.
    Arrival(Option<String>),
    /// To [`Ask::MappedFiles`].
    Files(Vec<OsText>),
    /// To [`Ask::Obstacles`]: those, and notes.
    Obstacles(Vec<String>, Vec<String>),
    /// To [`Ask::Work`].
    Worked([u64; 4]),
    /// To [`Ask::Find`].
    Found(Vec<Found>),
    /// To [`Ask::Region`].
    Region(Option<Box<View>>),
    /// To [`Ask::RegionName`].
    RegionName(Option<String>),
    /// Done.
    Done,
    /// To [`Ask::Follows`].
    Follows(Vec<FollowRow>),
    /// To [`Ask::Why`].
    Why(Box<Diagnosis>),
}

type Outcome = Result<Answer, String>;

impl Daemon {
    /// Asks another daemon; a refusal is an error with its words.
    pub async fn ask(&self, node: NodeId, ask: &Ask, within: Duration) -> anyhow::Result<Answer> {
        let outcome: Outcome = self.network.call(node, &ServiceId::CONTROL, ask, within).await?;
        outcome.map_err(|line| anyhow::anyhow!("{}: {line}", self.members.name(node)))
    }

    /// Answers other nodes until the network ends.
    pub async fn answer_peers(self: Arc<Self>) {
        while let Some(incoming) = self.network.accept().await {
            let daemon = self.clone();
            tokio::spawn(async move {
                let peer = incoming.peer;
                let handled = if incoming.service == ServiceId::CONTROL {
                    daemon.answer_peer(incoming).await
                } else if incoming.service == ServiceId::GOSSIP {
                    daemon.take_gossip(incoming).await
                } else if incoming.service == ServiceId::SUBGRID {
                    daemon.take_parcel(incoming).await
                } else {
                    daemon.let_in(incoming).await
                };
                if let Err(error) = handled {
                    tracing::info!(?peer, error = format!("{error:#}"), "a stream was refused");
                }
            });
        }
    }

    /// Gossip that came over the connection: the header is all of it.
    async fn take_gossip(&self, incoming: Incoming) -> anyhow::Result<()> {
        let payload: Vec<u8> = incoming.header()?;
        self.discovery.take(incoming.peer, payload).await;
        Ok(())
    }

    async fn answer_peer(self: Arc<Self>, mut incoming: Incoming) -> anyhow::Result<()> {
        let ask: Ask = incoming.request(FRAME_DEADLINE).await?;
        let peer = incoming.peer;
        // In a task of its own: a step of a move is ended even if the asking stream breaks.
        let work = tokio::spawn(async move { self.answer_one(peer, ask).await });
        let outcome: Outcome = match work.await {
            Ok(answer) => answer.map_err(|error| format!("{error:#}")),
            Err(error) => Err(error.to_string()),
        };
        Ok(incoming.reply(&outcome, FRAME_DEADLINE).await?)
    }

    async fn answer_one(self: &Arc<Self>, peer: NodeId, ask: Ask) -> anyhow::Result<Answer> {
        match ask {
            Ask::Facts => Ok(Answer::Facts(Box::new(self.facts.now()))),
            Ask::Work(seed, steps) => Ok(Answer::Worked(self.market.do_work(seed, steps).await?)),
            Ask::Probe(_) => Ok(Answer::Done),
            Ask::Find(text) => Ok(Answer::Found(self.find_here(&text).await?)),
            Ask::Region => {
                let view = self.region_view_here().await.map_err(|it| anyhow!(it.line))?;
                Ok(Answer::Region(view.map(Box::new)))
            }
            Ask::RegionName => {
                let name = self.own_region_name().await.map_err(|it| anyhow!(it.line))?;
                Ok(Answer::RegionName(name))
            }
            Ask::Charter(bytes) => {
                self.region.adopt(bytes).await.map_err(anyhow::Error::msg)?;
                Ok(Answer::Done)
            }
            Ask::Why(text) => Ok(Answer::Why(Box::new(self.why_here(&text).await?))),
            Ask::Follows => Ok(Answer::Follows(self.follow_rows_here().await)),
            Ask::Move(request) => {
                self.check_home(peer, &request)?;
                self.take_part(peer, request).await;
                Ok(Answer::Done)
            }
            Ask::Report(report) => {
                self.take_report(peer, report).await;
                Ok(Answer::Done)
            }
            Ask::Ticket { app, id } => Ok(Answer::Ticket(self.parts.ticket(app, id, peer)?)),
            Ask::Arrival { app, id } => Ok(Answer::Arrival(self.parts.arrival(app, id, peer))),
            Ask::MappedFiles(app) => match self
                .guest_of(app, peer)?
                .shim
                .ask(&ShimRequest::MappedFiles, SHIM_DEADLINE)
                .await?
            {
                Reply::Files(files) => Ok(Answer::Files(files)),
                _ => bail!("the shim did not understand"),
            },
            Ask::Obstacles(app) => match self
                .guest_of(app, peer)?
                .shim
                .ask(&ShimRequest::Survey, SHIM_DEADLINE)
                .await?
            {
                Reply::Survey(survey) => {
                    Ok(Answer::Obstacles(survey.obstacles, self.watcher.outlook(app)))
                }
                _ => bail!("the shim did not understand"),
            },
            Ask::Ended(app) => {
                tracing::info!(%app, "its home says that it has ended");
                self.guest_of(app, peer)?.shim.tell(&ShimRequest::Finish, SHIM_DEADLINE).await?;
                Ok(Answer::Done)
            }
            Ask::Signal(app, number) => {
                let guest = self.guest_of(app, peer)?;
                guest.shim.tell(&ShimRequest::Signal(number), SHIM_DEADLINE).await?;
                Ok(Answer::Done)
            }
            Ask::Exceeds(app, verdict, events) => {
                ensure!(self.apps.record(app)?.host == peer, "the app does not run on your node");
                for row in events.into_iter().take(16) {
                    self.apps.note_at(app, row.at_unix_us, &row.event, row.detail);
                }
                self.clone().act_on(app, verdict);
                Ok(Answer::Done)
            }
            Ask::Stays(app) => {
                self.guest_of(app, peer)?;
                self.watcher.rearm(app);
                Ok(Answer::Done)
            }
            Ask::Reading(app, used) => {
                ensure!(self.apps.record(app)?.host == peer, "the app does not run on your node");
                self.apps.with(app, |app| app.reading = Some(used))?;
                Ok(Answer::Done)
            }
        }
    }

    /// Only an app's home steers its moves.
    fn check_home(&self, peer: NodeId, request: &Addressed<Request>) -> anyhow::Result<()> {
        let known = match self.apps.record(request.app) {
            Ok(_) => Some(self.node),
            Err(_) => self.guests.get(request.app).ok().map(|guest| guest.home),
        };
        let claimed = match &request.body {
            Request::Prepare(prepare) => Some(prepare.record.home),
            _ => None,
        };
        // An app of which nothing is here needs no protection.
        ensure!(
            [known, claimed].into_iter().flatten().all(|home| home == peer),
            "only the app's home may move it"
        );
        Ok(())
    }

    fn guest_of(&self, app: AppId, home: NodeId) -> anyhow::Result<super::guests::Guest> {
        let guest = self.guests.get(app)?;
        ensure!(guest.home == home, "only the app's home may ask this");
        Ok(guest)
    }

    /// Tells a node that has to do with an app of which nothing is known here, or no longer. One that
    /// cannot be told hears it when it speaks of the app.
    pub fn tell_ended(self: &Arc<Self>, node: NodeId, app: AppId) {
        let daemon = self.clone();
        tokio::spawn(async move {
            if let Err(error) = daemon.ask(node, &Ask::Ended(app), ASK_DEADLINE).await {
                tracing::debug!(%app, error = format!("{error:#}"), "its end was not heard");
            }
        });
    }

    /// Signals an app that runs elsewhere.
    pub async fn signal_guest(
        &self,
        record: &phantom_model::AppRecord,
        signal: i32,
    ) -> anyhow::Result<()> {
        self.ask(record.host, &Ask::Signal(record.app, signal), ASK_DEADLINE)
            .await
            .map(drop)
            .with_context(|| format!("cannot signal {}", record.spec.name))
    }
}

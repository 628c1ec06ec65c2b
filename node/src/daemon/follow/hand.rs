//! One service's task: tells the machine what happens, and does what it says.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use phantom_discovery::NotDone;
use phantom_discovery::machine::follow::{
    Command, End, Lead, Record, Saved, Seen, Service, Situation, Value, Written, name as key_of,
};
use phantom_discovery::machine::group::{Declined, Op, Outcome};
use phantom_model::Follow;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::link::{self, Link, Words};
use super::place::Place;
use super::state::{Folder, Listing};
use super::{Daemon, Shown};
use crate::guard::control::{Charge, GuardDir, Order, Word, boot_clock};

/// How often a super-peer asks how long it may count on being it.
const LEASE: Duration = Duration::from_millis(500);
/// How often the others look.
const IDLE: Duration = Duration::from_secs(10);
/// What is missing here is looked for again.
const PLACE: Duration = Duration::from_secs(10);
/// A guard that has ended nothing so long after its time is not waited for.
const OVERDUE: Duration = Duration::from_secs(2);
const CLEAR_AGAIN: Duration = Duration::from_secs(5);
/// What happened and was not yet told to the machine.
const MAX_INPUTS: usize = 64;

/// What happened.
enum Input {
    Place(Result<Place, String>),
    Value(Option<Value>),
    Written(u64, Written),
    Filled(Result<(), String>),
    Seen(Seen),
    /// The guard of this number says something, or has gone.
    Word(u64, Option<Word>),
    /// It should have ended by now.
    Overdue(u64),
    /// Nothing is left of the copy with this claim.
    Cleared(u64, &'static str),
}

/// One service on this node.
pub struct Hand {
    daemon: Arc<Daemon>,
    name: String,
    machine: Service,
    wants: watch::Receiver<Option<Arc<Follow>>>,
    ending: watch::Receiver<bool>,
    show: watch::Sender<Shown>,
    place: Result<Place, String>,
    placed: Instant,
    /// Of the copy that was started last.
    folder: Option<Folder>,
    listing: Arc<Mutex<Option<Listing>>>,
    /// The guard of the copy that runs, and its number.
    link: Option<(u64, Link)>,
    guards: u64,
    inputs: mpsc::Sender<Input>,
    happened: mpsc::Receiver<Input>,
}

impl Hand {
    /// Nothing is done before [`Hand::run`].
    pub fn new(
        daemon: Arc<Daemon>,
        name: String,
        wants: watch::Receiver<Option<Arc<Follow>>>,
        ending: watch::Receiver<bool>,
        show: watch::Sender<Shown>,
    ) -> Self {
        let (inputs, happened) = mpsc::channel(MAX_INPUTS);
        Self {
            machine: Service::new(daemon.node, rand::random()),
            daemon,
            name,
            wants,
            ending,
            show,
            place: Err("it is not known yet whether it can run here".to_owned()),
            placed: Instant::now(),
            folder: None,
            listing: Arc::default(),
            link: None,
            guards: 0,
            inputs,
            happened,
        }
    }

    /// Until the policy does not name it any more and nothing of it is here.
    pub async fn run(mut self) {
        let mut changes = self.daemon.subgrid.changes();
        let place = self.find_place();
        let found = place.await;
        self.take_place(found);
        self.find_guard().await;
        loop {
            let situation = self.situation().await;
            self.machine.handle_situation(situation, boot_clock());
            self.carry_out().await;
            let idle = self.tell();
            if idle && self.wants.borrow().is_none() {
                return;
            }
            let now = boot_clock();
            let due = self.machine.poll_timeout().map(|due| due.saturating_sub(now));
            let busy = situation.lead == Lead::Own || !idle;
            let look = if busy { LEASE } else { IDLE };
            tokio::select! {
                Some(input) = self.happened.recv() => self.take(input),
                changed = changes.changed() => if changed.is_err() { return },
                changed = self.wants.changed() => match changed {
                    Ok(()) => self.look_for_place(),
                    Err(_) => return,
                },
                changed = self.ending.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(due.map_or(look, |due| due.min(look))) => {}
            }
            let ending = *self.ending.borrow_and_update();
            let now = boot_clock();
            self.machine.handle_end(ending, now);
            self.machine.handle_timeout(now);
            if self.place.is_err() && busy && self.placed.elapsed() >= PLACE {
                self.look_for_place();
            }
        }
    }

    /// Tells how it stands; whether nothing is left to do.
    fn tell(&self) -> bool {
        let shown = Shown { report: self.machine.report(), idle: self.machine.is_idle() };
        let idle = shown.idle;
        self.show.send_if_modified(|told| {
            let differs = *told != shown;
            *told = shown;
            differs
        });
        idle
    }

    async fn situation(&self) -> Situation {
        let led = self.daemon.subgrid.status().super_peer.map(|(node, _)| node);
        let lead = match led {
            _ if self.daemon.network.standing().is_err() => Lead::Out,
            Some(node) if node == self.daemon.node => Lead::Own,
            Some(_) => Lead::Other,
            None => Lead::Nobody,
        };
        let lease = match lead {
            Lead::Own => self.daemon.subgrid.lease().await,
            _ => None,
        };
        let electors = self.daemon.subgrid.status().electors.len();
        Situation { lead, lease, electors, unix_s: unix_s() }
    }

    fn find_place(&self) -> impl Future<Output = Result<Place, String>> + Send + use<> {
        let follow = self.wants.borrow().clone();
        let node = self.daemon.members.name(self.daemon.node);
        let allows = self.daemon.config.follow;
        async move {
            let Some(follow) = follow else {
                return Err("the policy does not name it any more".to_owned());
            };
            let found =
                tokio::task::spawn_blocking(move || Place::find(&follow, &node, allows)).await;
            found.unwrap_or_else(|error| Err(error.to_string()))
        }
    }

    /// Not waited for: a directory service may take its time.
    fn look_for_place(&mut self) {
        self.placed = Instant::now();
        let (inputs, place) = (self.inputs.clone(), self.find_place());
        tokio::spawn(async move { inputs.send(Input::Place(place.await)).await });
    }

    fn take_place(&mut self, place: Result<Place, String>) {
        self.placed = Instant::now();
        let terms = place.as_ref().map(Place::terms).map_err(String::clone);
        self.place = place;
        self.machine.handle_terms(terms, boot_clock());
    }

    /// Takes up a guard that a daemon before this one has started, or makes sure that there is none.
    async fn find_guard(&mut self) {
        let found = match link::connect(&self.dir()).await {
            Ok((found, link, words)) => {
                self.folder = self.place.as_ref().ok().and_then(|place| place.folder.clone());
                self.meet(link, words);
                Some(found)
            }
            Err(_) => {
                while let Err(error) = self.clear().await {
                    tracing::error!(service = self.name, error, "what is left of it does not end");
                    tokio::time::sleep(CLEAR_AGAIN).await;
                }
                None
            }
        };
        self.machine.handle_found(found, boot_clock());
    }

    fn dir(&self) -> GuardDir {
        GuardDir(self.daemon.config.follow_dir().join(&self.name))
    }

    fn clear(&self) -> impl Future<Output = Result<(), String>> + Send + use<> {
        clear(self.daemon.node.short(), self.name.clone())
    }

    fn take(&mut self, input: Input) {
        let now = boot_clock();
        match input {
            Input::Place(place) => self.take_place(place),
            Input::Value(Some(value)) => self.machine.handle_value(value, now),
            Input::Value(None) => self.machine.handle_unread(now),
            Input::Written(ticket, written) => self.machine.handle_written(ticket, written, now),
            Input::Filled(filled) => self.machine.handle_filled(filled, now),
            Input::Seen(seen) => self.machine.handle_seen(seen, now),
            Input::Word(_, Some(Word::Standing { .. })) => {}
            Input::Word(number, Some(Word::Ended { how, lapsed })) => {
                if let Some(run) = self.part_from(number) {
                    self.machine.handle_ended(run, End { how, lapsed }, now);
                }
            }
            Input::Word(number, None) => {
                if let Some(run) = self.part_from(number) {
                    self.clear_away(run, "its guard was killed");
                }
            }
            Input::Overdue(number) => {
                if let Some(run) = self.part_from(number) {
                    self.clear_away(run, "killed, for its guard did not end it");
                }
            }
            Input::Cleared(run, how) => {
                let end = End { how: how.to_owned(), lapsed: false };
                self.machine.handle_ended(run, end, now);
            }
        }
    }

    /// Listens to a guard from now on.
    fn meet(&mut self, link: Link, mut words: Words) {
        self.guards += 1;
        let number = self.guards;
        self.link = Some((number, link));
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            loop {
                let word = words.next().await;
                let is_last = word.is_none();
                if inputs.send(Input::Word(number, word)).await.is_err() || is_last {
                    return;
                }
            }
        });
    }

    /// The claim of the guard with this number, which is done with.
    fn part_from(&mut self, number: u64) -> Option<u64> {
        self.link.take_if(|(of, _)| *of == number).map(|(_, link)| link.run)
    }

    /// Ends what a guard has left, however long that takes.
    fn clear_away(&self, run: u64, how: &'static str) {
        let (inputs, node) = (self.inputs.clone(), self.daemon.node.short());
        let name = self.name.clone();
        tokio::spawn(async move {
            while let Err(error) = clear(node.clone(), name.clone()).await {
                tracing::error!(service = name, error, "what is left of it does not end");
                tokio::time::sleep(CLEAR_AGAIN).await;
            }
            inputs.send(Input::Cleared(run, how)).await
        });
    }

    async fn carry_out(&mut self) {
        while let Some(command) = self.machine.poll_command() {
            match command {
                Command::Read => self.read(),
                Command::Write { ticket, expect, record } => {
                    let bytes = Some(record.encode());
                    let name = key_of(&self.name);
                    let op = Op::Set { name, expect: Some(expect), bytes, sure: true };
                    let (inputs, daemon) = (self.inputs.clone(), self.daemon.clone());
                    tokio::spawn(async move {
                        let written = written(daemon.subgrid.propose(op).await);
                        if written == Written::Full {
                            daemon.make_room().await;
                        }
                        inputs.send(Input::Written(ticket, written)).await
                    });
                }
                Command::Fill { saved, former, run } => self.fill(saved, former, run),
                Command::Start { run, until } => self.start(run, until).await,
                Command::Permit { until } => self.order(Order::Permit(until)),
                Command::Stop { kill_at } => {
                    self.order(Order::Stop(kill_at));
                    let Some((number, _)) = self.link else { continue };
                    let wait = kill_at.saturating_sub(boot_clock()) + OVERDUE;
                    let inputs = self.inputs.clone();
                    tokio::spawn(async move {
                        tokio::time::sleep(wait).await;
                        inputs.send(Input::Overdue(number)).await
                    });
                }
                Command::Look => self.look(),
                Command::Tell(words) => tracing::info!(service = self.name, "{words}"),
            }
        }
    }

    fn order(&self, order: Order) {
        if let Some((_, link)) = &self.link {
            link.send(order);
        }
    }

    fn read(&self) {
        let (inputs, daemon, key) = (self.inputs.clone(), self.daemon.clone(), key_of(&self.name));
        tokio::spawn(async move {
            let value = daemon.subgrid.state().await.map(|state| {
                let record = match state.get(&key) {
                    Some(bytes) => Record::decode(bytes).map(Some).ok_or(()),
                    None => Ok(None),
                };
                Value { stamp: state.stamp(&key), record }
            });
            inputs.send(Input::Value(value)).await
        });
    }

    async fn start(&mut self, run: u64, until: Duration) {
        match self.start_guard(run, until).await {
            Ok((link, words)) => self.meet(link, words),
            Err(error) => {
                // Whatever has come of it.
                if let Err(error) = self.clear().await {
                    tracing::error!(service = self.name, error, "what is left of it does not end");
                    return self.clear_away(run, "it could not be started");
                }
                let end = End { how: format!("{error:#}"), lapsed: boot_clock() >= until };
                self.machine.handle_ended(run, end, boot_clock());
            }
        }
    }

    async fn start_guard(&mut self, run: u64, until: Duration) -> anyhow::Result<(Link, Words)> {
        let place = self.place.as_ref().map_err(|words| anyhow::anyhow!(words.clone()))?;
        self.folder.clone_from(&place.folder);
        let cwd = place.folder.as_ref().map_or_else(|| PathBuf::from("/"), |it| it.path.clone());
        let charge = Charge {
            name: self.name.clone(),
            command: place.command.clone(),
            user: place.user.clone(),
            cwd,
            node_short: self.daemon.node.short(),
            log: self.kept("log"),
            run,
            version: place.terms().version,
            until,
            stop: place.stop,
        };
        link::start(&self.dir(), &charge).await
    }

    /// A file of the service that outlives a reboot.
    fn kept(&self, what: &str) -> PathBuf {
        self.daemon.config.state_dir.join("follow").join(format!("{}.{what}", self.name))
    }

    fn fill(&self, saved: Option<Saved>, former: Option<u64>, run: u64) {
        let folder = self.place.as_ref().ok().and_then(|place| place.folder.clone());
        let (inputs, lineage) = (self.inputs.clone(), self.kept("run"));
        let listing = self.listing.clone();
        tokio::spawn(async move {
            let filled = tokio::task::spawn_blocking(move || {
                let Some(folder) = folder else { return Ok(()) };
                // What was seen in it before is not what will be there.
                drop(listing.lock().unwrap_or_else(PoisonError::into_inner).take());
                fill(&folder, &lineage, saved, former, run)
            });
            let filled = filled.await.unwrap_or_else(|error| Err(error.into()));
            let filled = filled.map_err(|error| format!("{error:#}"));
            inputs.send(Input::Filled(filled)).await
        });
    }

    fn look(&self) {
        let (inputs, folder) = (self.inputs.clone(), self.folder.clone());
        let (listing, name) = (self.listing.clone(), self.name.clone());
        tokio::spawn(async move {
            let seen = tokio::task::spawn_blocking(move || {
                let Some(folder) = folder else { return Seen::Same };
                let mut last = listing.lock().unwrap_or_else(PoisonError::into_inner);
                let before = last.as_ref().map(|it| it.left_out().to_vec());
                let seen = folder.look(&mut last);
                let left_out = last.as_ref().map(|it| it.left_out().to_vec()).unwrap_or_default();
                if !left_out.is_empty() && before.as_ref() != Some(&left_out) {
                    let names = left_out.join(", ");
                    tracing::warn!(service = name, names, "no files of its user's: left out");
                }
                seen
            });
            inputs.send(Input::Seen(seen.await.unwrap_or(Seen::Same))).await
        });
    }
}

async fn clear(node_short: String, name: String) -> Result<(), String> {
    let cleared = tokio::task::spawn_blocking(move || link::clear(&node_short, &name)).await;
    cleared.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))
}

/// Puts a state in its place, unless what is there is the newer of the same line.
fn fill(
    folder: &Folder,
    lineage: &std::path::Path,
    saved: Option<Saved>,
    former: Option<u64>,
    run: u64,
) -> anyhow::Result<()> {
    let line = |run: u64| format!("{run} {}\n", folder.path.display());
    let left = std::fs::read_to_string(lineage).unwrap_or_default();
    let is_newer = former.is_some_and(|former| left == line(former)) && folder.path.is_dir();
    match saved {
        Some(saved) if !is_newer => folder.fill(&saved.packed)?,
        _ => folder.ensure()?,
    }
    let above = lineage.parent().context("the state folder")?;
    std::fs::create_dir_all(above)
        .and_then(|()| std::fs::write(lineage, line(run)))
        .with_context(|| format!("cannot write {}", lineage.display()))
}

fn written(outcome: Result<Outcome, NotDone>) -> Written {
    match outcome {
        Ok(Outcome::Done(stamp)) => Written::Done(stamp),
        Ok(Outcome::Changed(_)) => Written::Changed,
        Ok(Outcome::Full) | Err(NotDone::Declined(Declined::TooLarge)) => Written::Full,
        Err(NotDone::Declined(Declined::NoSuperPeer | Declined::Busy) | NotDone::NoGroup) => {
            Written::NotNow
        }
        Ok(Outcome::NotItsEpoch(_)) | Err(NotDone::Unknown) => Written::Unknown,
    }
}

fn unix_s() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.unwrap_or_default().as_secs()
}

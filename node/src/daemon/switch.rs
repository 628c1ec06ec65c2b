//! Streams between the shims of one app on two nodes: a guest's shim asks here, its home's daemon
//! lets the stream in if this copy may act, and both daemons do nothing but pass bytes on.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use phantom_model::{AppRecord, NodeId};
use phantom_net::{Incoming, ServiceId, Stream};
use tokio::net::{UnixListener, UnixStream};

use super::Daemon;
use crate::frames;
use crate::shim::way_home::{Ask, Purpose};

/// How long a shim may take to say what it wants, and a home to answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(5);
/// How long the last words of an app's shim at home may take to reach a guest.
const LAST_WORDS: Duration = Duration::from_secs(5);

fn service(purpose: Purpose) -> ServiceId {
    match purpose {
        Purpose::Terminal => ServiceId::TERMINAL,
        Purpose::Files => ServiceId::FILES,
    }
}

impl Daemon {
    /// Serves the switch socket until the daemon stops.
    pub async fn serve_switch(self: Arc<Self>, listener: UnixListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let daemon = self.clone();
            tokio::spawn(async move {
                if let Err(error) = daemon.connect_home(stream).await {
                    tracing::debug!(error = format!("{error:#}"), "no stream home");
                }
            });
        }
    }

    async fn connect_home(&self, mut local: UnixStream) -> anyhow::Result<()> {
        let ask: Ask = tokio::time::timeout(OPEN_DEADLINE, frames::read(&mut local))
            .await??
            .context("nothing was asked")?;
        let opened = async {
            let home = self.guests.get(ask.app)?.home;
            let stream =
                self.network.open(home, &service(ask.purpose), &ask, OPEN_DEADLINE).await?;
            anyhow::Ok(stream)
        };
        match opened.await {
            Ok(mut remote) => {
                frames::write(&mut local, &Ok::<(), String>(())).await?;
                let _ = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
                Ok(())
            }
            Err(error) => {
                let line = format!("{error:#}");
                frames::write(&mut local, &Err::<(), String>(line)).await?;
                Err(error)
            }
        }
    }

    /// At the home: lets a stream of a copy in while that copy may act.
    pub async fn let_in(self: &Arc<Self>, incoming: Incoming) -> anyhow::Result<()> {
        let ask: Ask = incoming.header()?;
        ensure!(incoming.service == service(ask.purpose), "the stream contradicts itself");
        let peer = incoming.peer;
        let mut authority =
            self.apps.authority(ask.app).inspect_err(|_| self.tell_ended(peer, ask.app))?;
        let may_act = |record: &AppRecord| may_act(record, peer, ask);
        ensure!(
            may_act(&self.apps.record(ask.app)?),
            "the copy on {} with epoch {} may not act",
            self.members.name(peer),
            ask.epoch
        );
        let dir = self.config.app_dir(ask.app);
        let mut local = match ask.purpose {
            Purpose::Terminal => UnixStream::connect(dir.terminal()).await?,
            Purpose::Files => UnixStream::connect(dir.files()).await?,
        };
        if ask.purpose == Purpose::Terminal {
            let _ = self.apps.with(ask.app, |app| app.seen = Some(ask.epoch));
            frames::write(&mut local, &ask.epoch).await?;
        }
        let mut remote: Stream = incoming.stream;
        let splice = tokio::io::copy_bidirectional(&mut local, &mut remote);
        tokio::pin!(splice);
        loop {
            tokio::select! {
                _ = &mut splice => return Ok(()),
                changed = authority.changed() => {
                    if changed.is_err() {
                        // The app has ended. Its shim goes now, and has told the guest that the
                        // exit code is taken: without that word the guest would wait for ever.
                        let _ = tokio::time::timeout(LAST_WORDS, &mut splice).await;
                        return Ok(());
                    }
                    let record = self.apps.record(ask.app)?;
                    ensure!(may_act(&record), "the copy lost its right to act");
                }
            }
        }
    }
}

/// Whether a copy's stream is let in: it runs there, or it is being made there and reads files.
fn may_act(record: &AppRecord, peer: NodeId, ask: Ask) -> bool {
    let being_made = record.pending.as_ref().is_some_and(|pending| {
        pending.target == peer
            && ask.purpose == Purpose::Files
            && ask.epoch == pending.source_epoch.next()
    });
    record.may_act(peer, ask.epoch) || being_made
}

//! An app's life, one line an event: kept in memory, and on disk beside its record.
//!
//! A line is never written on the way of a move from the freeze to the resume. The store takes one
//! write at a time and each costs milliseconds, which the app would stand still for; that the
//! move's own record comes first is worth more than a line that a crash just then may lose.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use phantom_model::AppId;
use tokio::time::{Instant, sleep, timeout_at};

use super::Daemon;
use super::apps::{HomeApps, now_unix_us};
use crate::api::types::TimelineRow;

/// The home's record names the target.
pub const COMMIT: &str = "commit";
/// A moved app runs.
pub const ARRIVED: &str = "running";
/// Lines of one app's life.
const MOST_ROWS: usize = 512;
/// Lines of all apps; many apps have fewer each.
const MOST_ROWS_IN_ALL: usize = 32 << 10;
/// However many apps there are, each keeps this many.
const LEAST_ROWS: usize = 16;
/// Characters of what happened, and of its details.
const MAX_EVENT_CHARS: usize = 32;
const MAX_DETAIL_CHARS: usize = 400;
/// How long lines are collected before they are written.
const COLLECT: Duration = Duration::from_millis(200);
/// Where one move follows another all the time, lines are written all the same after this long.
const LONGEST_WAIT: Duration = Duration::from_secs(120);

/// The lines of one app, oldest first.
#[derive(Debug, Default)]
pub struct Timeline {
    rows: VecDeque<TimelineRow>,
    unsaved: bool,
}

impl Timeline {
    /// One that was kept.
    pub fn kept(rows: Vec<TimelineRow>) -> Self {
        Self { rows: rows.into(), unsaved: false }
    }

    /// Its lines.
    pub fn rows(&self) -> Vec<TimelineRow> {
        self.rows.iter().cloned().collect()
    }

    /// Adds a line in its place; of more than `most` the oldest go.
    fn insert(&mut self, row: TimelineRow, most: usize) {
        let later = self.rows.iter().rev().take_while(|known| known.at_unix_us > row.at_unix_us);
        let place = self.rows.len() - later.count();
        self.rows.insert(place, row);
        let surplus = self.rows.len().saturating_sub(most);
        self.rows.drain(..surplus);
        self.unsaved = true;
    }

    /// Whether the last move that was committed is said to have ended well.
    fn tells_of_arrival(&self) -> bool {
        let last = self.rows.iter().rev().find(|row| [COMMIT, ARRIVED].contains(&&*row.event));
        last.is_some_and(|row| row.event == ARRIVED)
    }

    /// Its lines, if they are to be written.
    fn take_unsaved(&mut self) -> Option<Vec<TimelineRow>> {
        std::mem::take(&mut self.unsaved).then(|| self.rows())
    }
}

/// How many lines each of `apps` keeps.
fn allowance(apps: usize) -> usize {
    (MOST_ROWS_IN_ALL / apps.max(1)).clamp(LEAST_ROWS, MOST_ROWS)
}

/// What comes from another node is one short line as well.
pub fn clean(text: &str, most: usize) -> String {
    text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect()
}

impl HomeApps {
    /// Adds a line to an app's life.
    pub fn note(&self, app: AppId, event: &str, detail: impl AsRef<str>) {
        self.note_at(app, now_unix_us(), event, detail);
    }

    /// Adds a line with its own time, in its place.
    pub fn note_at(&self, app: AppId, at_unix_us: u64, event: &str, detail: impl AsRef<str>) {
        let row = TimelineRow {
            at_unix_us: at_unix_us.min(now_unix_us()),
            event: clean(event, MAX_EVENT_CHARS),
            detail: clean(detail.as_ref(), MAX_DETAIL_CHARS),
        };
        tracing::info!(%app, event = row.event, detail = row.detail, "app");
        let most = allowance(self.count());
        if self.with(app, |app| app.timeline.insert(row, most)).is_ok() {
            self.noted.notify_one();
        }
    }

    /// Whether its last move is said to have ended well.
    pub fn tells_of_arrival(&self, app: AppId) -> bool {
        self.with(app, |app| app.timeline.tells_of_arrival()).unwrap_or(false)
    }

    fn unsaved(&self) -> Vec<(AppId, Vec<TimelineRow>)> {
        self.each(|app, home| Some((app, home.timeline.take_unsaved()?)))
    }
}

impl Daemon {
    /// Writes what happens to apps, for as long as the daemon runs.
    pub async fn keep_timelines(self: Arc<Self>) {
        loop {
            self.apps.noted.notified().await;
            sleep(COLLECT).await;
            let end = Instant::now() + LONGEST_WAIT;
            let _ = timeout_at(end, self.moves.quiet()).await;
            self.save_timelines().await;
        }
    }

    /// Writes what has happened, unless some app stands still for a move: then it is written
    /// when that is over.
    pub async fn save_timelines_if_quiet(&self) {
        if self.moves.is_quiet() {
            self.save_timelines().await;
        }
    }

    /// Writes what has happened.
    pub async fn save_timelines(&self) {
        let unsaved = self.apps.unsaved();
        if unsaved.is_empty() {
            return;
        }
        let store = self.store.clone();
        let written = tokio::task::spawn_blocking(move || store.put_timelines(&unsaved)).await;
        let error = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(error) => error.into(),
        };
        // The next line tries to write these as well.
        tracing::warn!(error = format!("{error:#}"), "the lives of apps could not be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(at_unix_us: u64) -> TimelineRow {
        TimelineRow { at_unix_us, event: "e".to_owned(), detail: String::new() }
    }

    #[test]
    fn lines_stand_in_the_order_of_their_times_and_the_oldest_go() {
        let mut timeline = Timeline::default();
        for at in [5, 1, 9, 5, 3] {
            timeline.insert(row(at), 4);
        }
        let times: Vec<_> = timeline.rows().iter().map(|row| row.at_unix_us).collect();
        assert_eq!(times, [3, 5, 5, 9]);
        assert_eq!(timeline.take_unsaved().map(|rows| rows.len()), Some(4));
        assert!(timeline.take_unsaved().is_none(), "nothing has happened since");
        assert!(Timeline::kept(timeline.rows()).take_unsaved().is_none());
    }

    #[test]
    fn an_arrival_is_told_once_a_move() {
        let mut timeline = Timeline::default();
        let mut add = |at_unix_us, event: &str| {
            timeline.insert(TimelineRow { event: event.to_owned(), ..row(at_unix_us) }, 9);
            timeline.tells_of_arrival()
        };
        assert!(!add(1, "start") && !add(2, COMMIT) && !add(3, "resume"));
        assert!(add(4, ARRIVED) && add(5, "crossing"));
        assert!(!add(6, COMMIT));
    }

    #[test]
    fn many_apps_keep_fewer_lines_each() {
        assert_eq!(allowance(0), MOST_ROWS);
        assert_eq!(allowance(64), MOST_ROWS);
        assert_eq!(allowance(1024), 32);
        assert_eq!(allowance(1 << 20), LEAST_ROWS);
    }

    #[test]
    fn a_line_of_another_node_is_one_short_line() {
        assert_eq!(clean("a\n\u{1b}[2Jb", 9), "a  [2Jb");
        assert_eq!(clean(&"x".repeat(900), MAX_DETAIL_CHARS).len(), MAX_DETAIL_CHARS);
    }
}

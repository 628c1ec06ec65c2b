//! How much this node can be counted on: what the sub-grid's voters are chosen by.

use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::facts::load_centi;

/// How often it is noted that the node runs.
const EVERY: Duration = Duration::from_secs(600);
/// Days that are remembered.
const DAYS: u64 = 14;
/// What is looked up in the system is taken for true so long.
const KEPT: Duration = Duration::from_secs(30);
const SLOTS_A_DAY: u64 = 86_400 / EVERY.as_secs();
/// Where it is kept.
pub const KEY: &str = "node/availability";

/// When the node ran, in slots of ten minutes over the last days.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Slots in which it was noted, by the day since 1970, the latest last.
    days: Vec<(u64, u16)>,
    /// The slot that was noted last.
    last: u64,
    /// The first day it was ever noted.
    first: u64,
}

impl History {
    /// It runs now.
    pub fn note(&mut self, unix: Duration) {
        let slot = unix.as_secs() / EVERY.as_secs();
        let day = slot / SLOTS_A_DAY;
        // A clock that was set back notes nothing until it is past again.
        if slot <= self.last {
            return;
        }
        if self.days.is_empty() {
            self.first = day;
        }
        self.last = slot;
        match self.days.last_mut().filter(|(last, _)| *last == day) {
            Some((_, slots)) => *slots = slots.saturating_add(1),
            None => self.days.push((day, 1)),
        }
        self.days.retain(|(noted, _)| noted + DAYS > day);
    }

    /// The share of the last days in which it ran; of a node that is new, nobody knows: a half.
    fn share(&self) -> f64 {
        let Some((today, _)) = self.days.last() else { return 0.5 };
        let noted: u64 = self.days.iter().map(|(_, slots)| u64::from(*slots)).sum();
        let elapsed =
            self.last % SLOTS_A_DAY + 1 + (today - self.first).min(DAYS - 1) * SLOTS_A_DAY;
        // One day of not knowing.
        (noted as f64 + 0.5 * SLOTS_A_DAY as f64) / (elapsed + SLOTS_A_DAY) as f64
    }
}

/// How a machine is fed and connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Not on a battery.
    pub mains: bool,
    /// Not by radio only.
    pub wired: bool,
}

/// Of 1000: half for how long it usually runs, a quarter for mains power, a sixth for a wire, the
/// rest for being idle.
pub fn score(history: &History, setting: Setting, load_per_core: f64) -> u16 {
    let idle = 1.0 - load_per_core.clamp(0.0, 1.0);
    let points = 500.0 * history.share()
        + if setting.mains { 250.0 } else { 0.0 }
        + if setting.wired { 170.0 } else { 0.0 }
        + 80.0 * idle;
    points.clamp(0.0, 1000.0) as u16
}

/// Looks the setting up in sysfs.
fn setting(sys: &Path) -> Setting {
    let names = |dir: &str| -> Vec<std::path::PathBuf> {
        let entries = fs::read_dir(sys.join(dir)).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect()
    };
    let read = |file: std::path::PathBuf| fs::read_to_string(file).unwrap_or_default();
    let supplies = names("class/power_supply");
    let is = |supply: &std::path::PathBuf, kind: &str| read(supply.join("type")).trim() == kind;
    // Batteries of mice and the like are not what the machine runs on.
    let battery =
        supplies.iter().any(|it| is(it, "Battery") && read(it.join("scope")).trim() != "Device");
    let plugged =
        supplies.iter().any(|it| !is(it, "Battery") && read(it.join("online")).trim() == "1");
    let up: Vec<_> = names("class/net")
        .into_iter()
        .filter(|link| read(link.join("type")).trim() == "1")
        .filter(|link| read(link.join("operstate")).trim() == "up")
        .collect();
    let by_radio = |link: &std::path::PathBuf| {
        link.join("wireless").exists() || link.join("phy80211").exists()
    };
    Setting { mains: !battery || plugged, wired: up.is_empty() || !up.iter().all(by_radio) }
}

/// Its availability, looked up now and then.
#[derive(Debug, Default)]
pub struct Availability {
    history: Mutex<History>,
    last: Mutex<Option<(std::time::Instant, u16)>>,
}

impl Availability {
    /// With what was noted before.
    pub fn new(kept: Option<Vec<u8>>) -> Self {
        let history = kept.and_then(|bytes| postcard::from_bytes(&bytes).ok()).unwrap_or_default();
        Self { history: Mutex::new(history), last: Mutex::new(None) }
    }

    /// Of 1000.
    pub fn now(&self) -> u16 {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, score)) = *last
            && at.elapsed() < KEPT
        {
            return score;
        }
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let load = f64::from(load_centi()) / 100.0 / cores as f64;
        let history = self.history.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let score = score(&history, setting(Path::new("/sys")), load);
        *last = Some((std::time::Instant::now(), score));
        score
    }

    /// Notes that the node runs; what to keep of it.
    fn note(&self) -> Vec<u8> {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        history.note(unix);
        postcard::to_stdvec(&*history).unwrap_or_default()
    }
}

impl super::Daemon {
    /// Notes that this node runs until it no longer does.
    pub async fn note_availability(self: std::sync::Arc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            let bytes = self.availability.note();
            let store = self.store.clone();
            let kept =
                tokio::task::spawn_blocking(move || phantom_net::Store::put(&*store, KEY, &bytes));
            if let Ok(Err(error)) = kept.await {
                tracing::debug!(%error, "when this node runs is not kept");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(from: u64, to: u64, day: u64, history: &mut History) {
        for slot in from * 6..to * 6 {
            history.note(Duration::from_secs(day * 86_400 + slot * 600));
        }
    }

    #[test]
    fn who_runs_all_day_counts_more_than_who_runs_in_the_evening() {
        let (mut server, mut laptop) = (History::default(), History::default());
        for day in 20_000..20_030 {
            hours(0, 24, day, &mut server);
            hours(18, 22, day, &mut laptop);
        }
        let mains = Setting { mains: true, wired: true };
        let battery = Setting { mains: false, wired: false };
        assert!(server.share() > 0.95 && laptop.share() < 0.3, "{}", laptop.share());
        assert!(score(&server, mains, 0.1) > 900);
        assert!(score(&laptop, battery, 0.0) < 250);
        assert!(score(&History::default(), mains, 5.0) > score(&laptop, battery, 0.0));
        assert!(server.days.len() <= DAYS as usize);
        // A clock that is set back.
        let before = server.clone();
        server.note(Duration::from_secs(0));
        assert_eq!(server, before);
    }

    #[test]
    fn a_laptop_is_told_from_a_desktop() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let file = dir.path().join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(file, text).unwrap();
        };
        assert_eq!(setting(dir.path()), Setting { mains: true, wired: true });
        put("class/power_supply/BAT0/type", "Battery\n");
        put("class/power_supply/AC/type", "Mains\n");
        put("class/power_supply/AC/online", "0\n");
        put("class/net/wlan0/type", "1\n");
        put("class/net/wlan0/operstate", "up\n");
        put("class/net/wlan0/wireless/x", "");
        assert_eq!(setting(dir.path()), Setting { mains: false, wired: false });
        put("class/power_supply/AC/online", "1\n");
        put("class/net/eth0/type", "1\n");
        put("class/net/eth0/operstate", "up\n");
        assert_eq!(setting(dir.path()), Setting { mains: true, wired: true });
    }
}

//! What the daemon must not forget: app records, what happened to each app, and the membership, in
//! one redb file.
//!
//! Every write is on disk when the call returns. A commit costs about 2 ms, and there is one at a
//! time; all but the records are written when nobody stands still for it.

mod older;

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::Context;
use phantom_discovery::Keep;
use phantom_model::{AppId, AppRecord};
use phantom_net::store::StoreError;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};

use crate::api::types::TimelineRow;

const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("app-records-2");
const TIMELINES: TableDefinition<u64, &[u8]> = TableDefinition::new("timelines-1");
const BLOBS: TableDefinition<&str, &[u8]> = TableDefinition::new("blobs-1");

/// The open file.
pub struct Store {
    database: Database,
}

impl Store {
    /// Opens or makes `state.redb` in `dir`.
    pub fn open(dir: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::set_permissions(dir, Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot make the state folder {}", dir.display()))?;
        let file = dir.join("state.redb");
        let database = Database::create(&file).with_context(|| {
            format!("cannot open {}; is another daemon running with this state?", file.display())
        })?;
        let write = database.begin_write()?;
        older::bring_up_to_date(&write)?;
        write.open_table(BLOBS)?;
        // Of apps that ended with the machine.
        let records = write.open_table(RECORDS)?;
        let lives = |app: u64| records.get(app).map(|record| record.is_some());
        write.open_table(TIMELINES)?.retain(|app, _| lives(app).unwrap_or(true))?;
        drop(records);
        write.commit()?;
        Ok(Self { database })
    }

    /// Makes all of these changes, or none.
    pub fn change(&self, changes: &[Keep]) -> anyhow::Result<()> {
        let write = self.database.begin_write()?;
        {
            let mut blobs = write.open_table(BLOBS)?;
            for change in changes {
                match change {
                    Keep::Put(key, bytes) => drop(blobs.insert(key.as_str(), bytes.as_slice())?),
                    Keep::Remove(key) => drop(blobs.remove(key.as_str())?),
                    Keep::RemoveAll(prefix) => {
                        let end = format!("{prefix}\u{10ffff}");
                        blobs.retain_in(prefix.as_str()..end.as_str(), |_, _| false)?;
                    }
                }
            }
        }
        write.commit().context("cannot keep what the sub-grid has decided")
    }

    /// Counts one start of the daemon more, and says how many there were.
    pub fn count_start(&self) -> anyhow::Result<u64> {
        const STARTS: &str = "node/starts";
        let write = self.database.begin_write()?;
        let count = {
            let mut blobs = write.open_table(BLOBS)?;
            let known = blobs.get(STARTS)?.and_then(|bytes| bytes.value().try_into().ok());
            let count = known.map_or(0, u64::from_le_bytes).saturating_add(1);
            blobs.insert(STARTS, count.to_le_bytes().as_slice())?;
            count
        };
        write.commit().context("cannot count the starts of the daemon")?;
        Ok(count)
    }

    /// All app records. One that cannot be read is reported and left where it is.
    pub fn records(&self) -> anyhow::Result<Vec<AppRecord>> {
        let read = self.database.begin_read()?;
        let table = read.open_table(RECORDS)?;
        let mut records = Vec::new();
        for row in table.iter()? {
            let (app, bytes) = row?;
            match postcard::from_bytes(bytes.value()) {
                Ok(record) => records.push(record),
                Err(error) => {
                    let app = AppId(app.value());
                    tracing::error!(%app, %error, "record cannot be read, skipped");
                }
            }
        }
        Ok(records)
    }

    /// Writes one app's record.
    pub fn put_record(&self, record: &AppRecord) -> anyhow::Result<()> {
        let bytes = postcard::to_stdvec(record)?;
        let write = self.database.begin_write()?;
        write.open_table(RECORDS)?.insert(record.app.0, bytes.as_slice())?;
        write.commit().with_context(|| format!("cannot keep the record of app {}", record.app))
    }

    /// Writes what happened to some apps; nothing of one that is forgotten.
    pub fn put_timelines(&self, timelines: &[(AppId, Vec<TimelineRow>)]) -> anyhow::Result<()> {
        let write = self.database.begin_write()?;
        {
            let records = write.open_table(RECORDS)?;
            let mut table = write.open_table(TIMELINES)?;
            for (app, rows) in timelines {
                if records.get(app.0)?.is_some() {
                    table.insert(app.0, postcard::to_stdvec(rows)?.as_slice())?;
                }
            }
        }
        write.commit().context("cannot keep what happened to apps")
    }

    /// What happened to one app, as far as it was written.
    pub fn timeline(&self, app: AppId) -> anyhow::Result<Vec<TimelineRow>> {
        let read = self.database.begin_read()?;
        let table = read.open_table(TIMELINES)?;
        let rows = table.get(app.0)?.map(|bytes| postcard::from_bytes(bytes.value()));
        Ok(rows.transpose()?.unwrap_or_default())
    }

    /// Forgets one app.
    pub fn remove_record(&self, app: AppId) -> anyhow::Result<()> {
        let write = self.database.begin_write()?;
        write.open_table(RECORDS)?.remove(app.0)?;
        write.open_table(TIMELINES)?.remove(app.0)?;
        write.commit().with_context(|| format!("cannot forget app {app}"))
    }
}

impl phantom_net::Store for Store {
    fn get(&self, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(BLOBS).map_err(failed)?;
        Ok(table.get(key).map_err(failed)?.map(|bytes| bytes.value().to_vec()))
    }

    fn put(&self, key: &str, value: &[u8]) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        write.open_table(BLOBS).map_err(failed)?.insert(key, value).map_err(failed)?;
        write.commit().map_err(failed)
    }

    fn remove(&self, key: &str) -> Result<(), StoreError> {
        let write = self.database.begin_write().map_err(failed)?;
        write.open_table(BLOBS).map_err(failed)?.remove(key).map_err(failed)?;
        write.commit().map_err(failed)
    }

    fn list(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(BLOBS).map_err(failed)?;
        let mut found = Vec::new();
        for row in table.range(prefix..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            if !key.value().starts_with(prefix) {
                break;
            }
            found.push((key.value().to_owned(), value.value().to_vec()));
        }
        Ok(found)
    }
}

fn failed(error: impl std::fmt::Display) -> StoreError {
    StoreError(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use phantom_net::Store as _;

    #[test]
    fn what_was_put_is_there_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.put("a/1", b"x").unwrap();
        store.put("a/2", b"y").unwrap();
        store.put("b/1", b"z").unwrap();
        store.remove("a/1").unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.list("a/").unwrap(), [("a/2".to_owned(), b"y".to_vec())]);
        assert_eq!(store.get("b/1").unwrap().as_deref(), Some(&b"z"[..]));
        assert!(Store::open(dir.path()).is_err(), "two daemons must not share one state");
    }

    #[test]
    fn several_changes_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let put = |key: &str| Keep::Put(key.to_owned(), b"x".to_vec());
        store.change(&[put("g/entry/1"), put("g/entry/2"), put("g/life"), put("h/1")]).unwrap();
        let changes =
            [Keep::RemoveAll("g/entry/".to_owned()), put("g/entry/3"), Keep::Remove("h/1".into())];
        store.change(&changes).unwrap();
        let keys: Vec<String> = store.list("").unwrap().into_iter().map(|(key, _)| key).collect();
        assert_eq!(keys, ["g/entry/3", "g/life"]);
    }

    fn record(app: AppId) -> AppRecord {
        let node = phantom_model::NodeId([1; 32]);
        AppRecord {
            app,
            epoch: phantom_model::Epoch::FIRST,
            host: node,
            home: node,
            pending: None,
            spec: phantom_model::AppSpec {
                name: "repl".to_owned(),
                argv: Vec::new(),
                env: Vec::new(),
                cwd: std::path::PathBuf::from("/").into(),
                user: phantom_model::Credentials {
                    user: "ada".to_owned(),
                    uid: 1000,
                    gid: 1000,
                    groups: Vec::new(),
                    group_names: Vec::new(),
                    home_dir: std::path::PathBuf::from("/home/ada").into(),
                },
                limits: "".parse().unwrap(),
                term_size: Default::default(),
                vo: None,
            },
            started_unix_s: 0,
        }
    }

    #[test]
    fn an_apps_life_is_kept_as_long_as_its_record_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let life = |event: &str| {
            vec![TimelineRow { at_unix_us: 1, event: event.to_owned(), detail: "d".to_owned() }]
        };
        let events = |store: &Store, app| -> Vec<String> {
            store.timeline(app).unwrap().into_iter().map(|row| row.event).collect()
        };
        let (lives, ends) = (AppId(1), AppId(2));
        store.put_record(&record(lives)).unwrap();
        store.put_record(&record(ends)).unwrap();
        store.put_timelines(&[(lives, life("start")), (ends, life("start"))]).unwrap();
        store.put_timelines(&[(lives, life("running"))]).unwrap();
        store.remove_record(ends).unwrap();
        // A line that was on its way when the app ended.
        store.put_timelines(&[(ends, life("end"))]).unwrap();
        assert_eq!(events(&store, ends), [""; 0]);
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(events(&store, lives), ["running"]);
        assert_eq!(events(&store, ends), [""; 0]);
    }
}

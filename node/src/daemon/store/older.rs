//! App records as earlier versions of Phantom wrote them, so that apps outlive an upgrade.

use phantom_model::app::{OsText, PendingMove};
use phantom_model::{AppId, AppRecord, AppSpec, Credentials, Epoch, Limits, NodeId, TermSize};
use redb::{ReadableTable, TableDefinition, WriteTransaction};
use serde::Deserialize;

use super::RECORDS;

/// Before apps ran under virtual organisations.
const RECORDS_1: TableDefinition<u64, &[u8]> = TableDefinition::new("app-records-1");

#[derive(Deserialize)]
struct Record1 {
    app: AppId,
    epoch: Epoch,
    host: NodeId,
    home: NodeId,
    pending: Option<PendingMove>,
    spec: Spec1,
    started_unix_s: u64,
}

#[derive(Deserialize)]
struct Spec1 {
    name: String,
    argv: Vec<OsText>,
    env: Vec<OsText>,
    cwd: OsText,
    user: Credentials,
    limits: Limits,
    term_size: TermSize,
}

impl From<Record1> for AppRecord {
    fn from(record: Record1) -> Self {
        let Record1 { app, epoch, host, home, pending, spec, started_unix_s } = record;
        let Spec1 { name, argv, env, cwd, user, limits, term_size } = spec;
        let spec = AppSpec { name, argv, env, cwd, user, limits, term_size, vo: None };
        Self { app, epoch, host, home, pending, spec, started_unix_s }
    }
}

/// Writes records anew as they are written now. One that cannot be read is reported and left where
/// it is.
pub fn bring_up_to_date(write: &WriteTransaction) -> anyhow::Result<()> {
    let mut old = write.open_table(RECORDS_1)?;
    let mut records = write.open_table(RECORDS)?;
    let mut rows = Vec::new();
    for row in old.iter()? {
        let (app, bytes) = row?;
        rows.push((app.value(), postcard::from_bytes::<Record1>(bytes.value())));
    }
    for (app, row) in rows {
        match row {
            Ok(record) => {
                let bytes = postcard::to_stdvec(&AppRecord::from(record))?;
                records.insert(app, bytes.as_slice())?;
                old.remove(app)?;
            }
            Err(error) => {
                let app = AppId(app);
                tracing::error!(%app, %error, "an old record cannot be read, skipped");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::daemon::store::Store;
    use redb::Database;

    /// A record as the version before wrote it: an app of ada's under way from one node to its home.
    const WRITTEN: &str = concat!(
        "103031323334353637383961626364656602020202020202020202020202020202020202020202020202",
        "020202020202020201010101010101010101010101010101010101010101010101010101010101010107",
        "020202020202020202020202020202020202020202020202020202020202020201010101010101010101",
        "0101010101010101010101010101010101010101010102047265706c0207707974686f6e3301ff010341",
        "3d62092f686f6d652f61646103616461e807e807011b010873747564656e7473092f686f6d652f616461",
        "010096010a00001e6480a4a7da06"
    );

    fn written() -> Vec<u8> {
        let digits = WRITTEN.as_bytes().chunks(2).map(|two| std::str::from_utf8(two).unwrap());
        digits.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
    }

    #[test]
    fn records_of_the_version_before_are_read_and_damaged_ones_left() {
        let dir = tempfile::tempdir().unwrap();
        let old = Database::create(dir.path().join("state.redb")).unwrap();
        let write = old.begin_write().unwrap();
        {
            let mut table = write.open_table(RECORDS_1).unwrap();
            table.insert(0x0123_4567_89ab_cdef, written().as_slice()).unwrap();
            table.insert(9, &b"damaged"[..]).unwrap();
        }
        write.commit().unwrap();
        drop(old);

        let store = Store::open(dir.path()).unwrap();
        let [record] = &store.records().unwrap()[..] else { panic!("one record") };
        assert_eq!((record.app, record.epoch.0), (AppId(0x0123_4567_89ab_cdef), 2));
        assert_eq!((record.host, record.home), (NodeId([2; 32]), NodeId([1; 32])));
        assert_eq!(record.pending.as_ref().unwrap().id.0, 7);
        let spec = &record.spec;
        assert_eq!((spec.name.as_str(), spec.user.user.as_str()), ("repl", "ada"));
        assert_eq!(spec.argv, ["python3".into(), OsText(vec![0xff])]);
        assert_eq!(spec.limits.to_string(), "cpu=150%/10s");
        assert_eq!((spec.term_size.rows, spec.vo.as_ref()), (30, None));
        assert_eq!(record.started_unix_s, 1_800_000_000);

        // What is written since counts, also after another start.
        let mut changed = record.clone();
        changed.spec.vo =
            Some(phantom_model::VoId::new(phantom_model::SubgridId([3; 32]), "lab").unwrap());
        store.put_record(&changed).unwrap();
        drop(store);
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.records().unwrap(), [changed]);
        store.remove_record(AppId(0x0123_4567_89ab_cdef)).unwrap();
        drop(store);
        assert_eq!(Store::open(dir.path()).unwrap().records().unwrap(), []);
    }

    #[test]
    fn an_apps_charge_of_the_version_before_is_read() {
        // What a shim was started with lies beside it as JSON.
        let record = AppRecord::from(postcard::from_bytes::<Record1>(&written()).unwrap());
        let mut json = serde_json::to_value(&record.spec).unwrap();
        json.as_object_mut().unwrap().remove("vo").unwrap();
        assert_eq!(serde_json::from_value::<AppSpec>(json).unwrap(), record.spec);
    }
}

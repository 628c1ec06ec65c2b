//! The log of a daemon that `phantom up` started stays bounded: one file, and the one before it.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::Daemon;

/// How large a log becomes, about, in bytes.
const MOST: u64 = 8 << 20;
/// How often that is looked at.
const EVERY: Duration = Duration::from_secs(60);

impl Daemon {
    /// Looks after the log until the daemon stops.
    pub async fn bound_log(self: Arc<Self>) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tick.tick().await;
            let log = self.config.log_file();
            match tokio::task::spawn_blocking(move || bound(&log, MOST)).await {
                Ok(Err(error)) => tracing::warn!(%error, "the log grows without bound"),
                Ok(Ok(())) => {}
                Err(_) => return,
            }
        }
    }
}

/// Begins a log anew that is larger than `most`; `LOG.1` then holds what it held. Whoever writes
/// has it open for appending and goes on at its new end; lines written in this very moment are
/// lost.
fn bound(log: &Path, most: u64) -> io::Result<()> {
    match fs::metadata(log) {
        Ok(found) if found.len() <= most => return Ok(()),
        Ok(_) => {}
        // The daemon logs elsewhere.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    let mut before = log.as_os_str().to_owned();
    before.push(".1");
    fs::copy(log, &before)?;
    OpenOptions::new().write(true).truncate(true).open(log).map(drop)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_large_log_is_put_aside_and_written_on() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("daemon.log");
        bound(&log, 10).unwrap();
        let mut writer = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        writer.write_all(b"0123456789").unwrap();
        bound(&log, 10).unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"0123456789");
        writer.write_all(b"more\n").unwrap();
        bound(&log, 10).unwrap();
        writer.write_all(b"new\n").unwrap();
        assert_eq!(fs::read(&log).unwrap(), b"new\n");
        assert_eq!(fs::read(dir.path().join("daemon.log.1")).unwrap(), b"0123456789more\n");
    }
}

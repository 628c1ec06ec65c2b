//! How much programs on this machine are held up, as the kernel adds it up (`/proc/pressure`,
//! Documentation/accounting/psi.rst).

use std::path::PathBuf;
use std::time::Duration;
use std::{fs, io};

use phantom_model::Pressure;

use crate::{MonitorError, os};

/// Reads it now: three small files, some 10 us.
pub fn pressure() -> Result<Pressure, MonitorError> {
    Ok(Pressure {
        at: os::now(),
        cpu: total("cpu", "some")?,
        memory: total("memory", "some")?,
        disk: total("io", "full")?,
    })
}

fn total(file: &str, line: &str) -> Result<Duration, MonitorError> {
    let path = PathBuf::from("/proc/pressure").join(file);
    let text = fs::read_to_string(&path);
    let found = text.and_then(|text| {
        parse(&text, line).ok_or_else(|| io::Error::other("it does not look as expected"))
    });
    found.map_err(|source| MonitorError::Pressure { path, source })
}

/// The total of one line, like `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`.
fn parse(text: &str, line: &str) -> Option<Duration> {
    let fields = text.lines().find_map(|found| found.strip_prefix(line))?;
    let total = fields.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_found_by_their_line() {
        let text = "some avg10=0.00 avg60=2.09 avg300=5.10 total=44814925\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=7\n";
        assert_eq!(parse(text, "some"), Some(Duration::from_micros(44_814_925)));
        assert_eq!(parse(text, "full"), Some(Duration::from_micros(7)));
        assert_eq!(parse("some avg10=0.00 total=x", "some"), None);
        assert_eq!(parse("", "full"), None);
    }
}

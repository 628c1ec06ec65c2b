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

/// For how much of the last ten seconds, in percent: something waited for a CPU, something for
/// memory, everything for a disk.
pub fn recent_pressure() -> Result<[f64; 3], MonitorError> {
    let recent = |file, line| read(file, |text| field(text, line, "avg10=")?.parse().ok());
    Ok([recent("cpu", "some")?, recent("memory", "some")?, recent("io", "full")?])
}

fn total(file: &str, line: &str) -> Result<Duration, MonitorError> {
    read(file, |text| parse(text, line))
}

fn read<T>(file: &str, parse: impl Fn(&str) -> Option<T>) -> Result<T, MonitorError> {
    let path = PathBuf::from("/proc/pressure").join(file);
    let text = fs::read_to_string(&path);
    let found = text.and_then(|text| {
        parse(&text).ok_or_else(|| io::Error::other("it does not look as expected"))
    });
    found.map_err(|source| MonitorError::Pressure { path, source })
}

/// The total of one line, like `some avg10=0.00 avg60=0.00 avg300=0.00 total=1234`.
fn parse(text: &str, line: &str) -> Option<Duration> {
    field(text, line, "total=")?.parse().ok().map(Duration::from_micros)
}

fn field<'a>(text: &'a str, line: &str, name: &str) -> Option<&'a str> {
    let fields = text.lines().find_map(|found| found.strip_prefix(line))?;
    fields.split(' ').find_map(|field| field.strip_prefix(name))
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
        assert_eq!(field(text, "some", "avg10="), Some("0.00"));
        assert_eq!(parse("some avg10=0.00 total=x", "some"), None);
        assert_eq!(parse("", "full"), None);
    }
}

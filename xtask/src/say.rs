//! What the user reads while we work: one line per thing, the same with and without a terminal.
//! It goes to standard error, as cargo's own progress does, so that standard output holds results
//! only.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// Something is as it should be.
pub fn ok(text: impl AsRef<str>) {
    eprintln!("  ok    {}", text.as_ref());
}

/// Something is missing and will be made.
pub fn need(text: impl AsRef<str>) {
    eprintln!("  need  {}", text.as_ref());
}

/// Something is wrong.
pub fn bad(text: impl AsRef<str>) {
    eprintln!("  FAIL  {}", text.as_ref());
}

/// Something to know that is not wrong.
pub fn note(text: impl AsRef<str>) {
    eprintln!("  note  {}", text.as_ref());
}

/// One of several under a heading.
pub fn item(text: impl AsRef<str>) {
    eprintln!("        {}", text.as_ref());
}

/// A heading.
pub fn title(text: impl AsRef<str>) {
    eprintln!("{}", text.as_ref());
}

/// A duration as people read it: `0.4 s`, `12 s`, `3 min 05 s`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..=9 => format!("{:.1} s", duration.as_secs_f64()),
        10..=119 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

/// A line that shows that work goes on: rewritten every second on a terminal; elsewhere, where
/// lines stay, one every [`Progress::QUIET`].
pub struct Progress {
    text: String,
    started: Instant,
    last: Instant,
    terminal: bool,
}

impl Progress {
    /// How often a line is written where lines cannot be rewritten.
    const QUIET: Duration = Duration::from_secs(20);

    /// Says that `text` begins.
    pub fn start(text: &str) -> Progress {
        let terminal = std::io::stderr().is_terminal();
        if terminal {
            eprint!("  ...   {text}");
        }
        let now = Instant::now();
        Progress { text: text.to_owned(), started: now, last: now, terminal }
    }

    /// Called about once a second.
    pub fn tick(&mut self) {
        let elapsed = duration(self.started.elapsed());
        if self.terminal {
            eprint!("\r\x1b[K  ...   {} ({elapsed})", self.text);
        } else if self.last.elapsed() >= Self::QUIET {
            eprintln!("  ...   {} ({elapsed})", self.text);
            self.last = Instant::now();
        }
    }

    /// Takes the line away and returns how long it took; the caller says how it ended.
    pub fn end(self) -> Duration {
        if self.terminal {
            eprint!("\r\x1b[K");
        }
        self.started.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(duration(Duration::from_millis(430)), "0.4 s");
        assert_eq!(duration(Duration::from_secs(75)), "75 s");
        assert_eq!(duration(Duration::from_secs(185)), "3 min 05 s");
    }
}

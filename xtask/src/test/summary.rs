//! The closing summary.

use std::collections::BTreeSet;
use std::time::Duration;

use super::libtest::Outcome;
use super::skips::Skips;
use crate::say;

/// What happened in one test program, or in one check that counts as a test.
#[derive(Debug)]
pub struct Line {
    /// The package, or what the check is called.
    pub package: String,
    /// The target in the package; empty for a check.
    pub target: String,
    /// How long it took.
    pub took: Duration,
    /// Tests that held.
    pub passed: usize,
    /// Tests that did not, each with what is known about it.
    pub failed: Vec<String>,
    /// Skipped tests with their reasons.
    pub skipped: Vec<(String, String)>,
    /// What its tests want the reader to know.
    pub notes: BTreeSet<String>,
}

/// Everything that ran.
#[derive(Debug, Default)]
pub struct Summary {
    lines: Vec<Line>,
}

impl Line {
    /// A check that is one test.
    pub fn check(name: &str, took: Duration, good: bool) -> Line {
        let failed = if good { Vec::new() } else { vec![name.to_owned()] };
        Line {
            package: name.to_owned(),
            target: String::new(),
            took,
            passed: usize::from(good),
            failed,
            skipped: Vec::new(),
            notes: BTreeSet::new(),
        }
    }

    /// The outcome of a test program. A skip that is not allowed becomes a failure.
    pub fn program(
        package: &str,
        target: &str,
        took: Duration,
        outcome: Outcome,
        skips: &Skips,
    ) -> Line {
        let name = |test: &str| format!("{package}/{target}::{test}");
        let mut failed: Vec<String> = outcome.failed.iter().map(|test| name(test)).collect();
        let mut skipped = Vec::new();
        for (test, reason) in outcome.skipped {
            let test = name(&test);
            match skips.why(&test, &reason) {
                Some(_) => skipped.push((test, reason)),
                None => failed.push(format!(
                    "{test}: skipped ({reason}), which tests/skips.toml does not allow"
                )),
            }
        }
        Line {
            package: package.to_owned(),
            target: target.to_owned(),
            took,
            passed: outcome.passed.len(),
            failed,
            skipped,
            notes: outcome.notes,
        }
    }

    /// One line for the user while the others still run.
    pub fn say(&self) {
        let mut text = format!("{} {}", self.package, self.target).trim_end().to_owned();
        text.push_str(&format!(": {} passed", self.passed));
        if !self.failed.is_empty() {
            text.push_str(&format!(", {} failed", self.failed.len()));
        }
        if !self.skipped.is_empty() {
            text.push_str(&format!(", {} skipped", self.skipped.len()));
        }
        text.push_str(&format!(" in {}", say::duration(self.took)));
        if self.failed.is_empty() { say::ok(text) } else { say::bad(text) }
    }
}

impl Summary {
    /// Adds what ran.
    pub fn add(&mut self, line: Line) {
        line.say();
        self.lines.push(line);
    }

    /// Whether nothing failed.
    pub fn good(&self) -> bool {
        self.lines.iter().all(|line| line.failed.is_empty())
    }

    /// Names of what failed.
    pub fn failures(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().flat_map(|line| &line.failed).map(String::as_str)
    }

    fn packages(&self) -> Vec<(String, usize, usize, usize, Duration)> {
        let mut packages: Vec<(String, usize, usize, usize, Duration)> = Vec::new();
        for line in &self.lines {
            let (passed, failed, skipped) = (line.passed, line.failed.len(), line.skipped.len());
            match packages.iter_mut().find(|known| known.0 == line.package) {
                Some(known) => {
                    known.1 += passed;
                    known.2 += failed;
                    known.3 += skipped;
                    known.4 += line.took;
                }
                None => packages.push((line.package.clone(), passed, failed, skipped, line.took)),
            }
        }
        packages
    }

    /// What the tests want the reader to know, each once however many say it.
    fn notes(&self) -> BTreeSet<&str> {
        self.lines.iter().flat_map(|line| &line.notes).map(String::as_str).collect()
    }

    /// The last line: `N passed, N failed, N skipped`.
    pub fn closing(&self) -> String {
        let passed: usize = self.lines.iter().map(|line| line.passed).sum();
        let failed: usize = self.lines.iter().map(|line| line.failed.len()).sum();
        let skipped: usize = self.lines.iter().map(|line| line.skipped.len()).sum();
        format!("{passed} passed, {failed} failed, {skipped} skipped")
    }

    /// Prints it.
    pub fn print(&self, total: Duration) {
        println!("\n{:<24} {:>7} {:>7} {:>8} {:>13}", "", "passed", "failed", "skipped", "time");
        for (name, passed, failed, skipped, took) in self.packages() {
            let took = say::duration(took);
            println!("{name:<24} {passed:>7} {failed:>7} {skipped:>8} {took:>13}");
        }
        println!("{:<24} {:>38}", "all, building included", say::duration(total));
        for note in self.notes() {
            println!("{note}");
        }
        let skipped: Vec<_> = self.lines.iter().flat_map(|line| &line.skipped).collect();
        if !skipped.is_empty() {
            println!("\nskipped (allowed by tests/skips.toml):");
            for (test, reason) in skipped {
                println!("  {test}: {reason}");
            }
        }
        if !self.good() {
            println!("\nfailed:");
            for one in self.failures() {
                println!("  {one}");
            }
        }
        println!("\n{}", self.closing());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unlisted_skip_is_a_failure() {
        let mut outcome = Outcome::default();
        outcome.passed.insert("a".into());
        outcome.skipped.insert("b".into(), "no moon".into());
        let line = Line::program("p", "lib", Duration::ZERO, outcome, &Skips::default());
        assert_eq!((line.passed, line.skipped.len()), (1, 0));
        assert!(line.failed[0].contains("p/lib::b: skipped (no moon)"), "{:?}", line.failed);
        let mut summary = Summary::default();
        summary.add(line);
        summary.add(Line::check("tidy", Duration::ZERO, true));
        assert!(!summary.good());
        assert_eq!(summary.closing(), "2 passed, 1 failed, 0 skipped");
    }

    #[test]
    fn targets_of_a_package_are_summed() {
        let mut summary = Summary::default();
        for target in ["lib", "link"] {
            let mut outcome = Outcome::default();
            outcome.passed.insert("a".into());
            outcome.notes.insert("desktops: KVM".into());
            let second = Duration::from_secs(1);
            summary.add(Line::program("p", target, second, outcome, &Skips::default()));
        }
        let expected = vec![("p".to_owned(), 2, 0, 0, Duration::from_secs(2))];
        assert_eq!(summary.packages(), expected);
        assert!(summary.notes().into_iter().eq(["desktops: KVM"]), "said by two, shown once");
    }
}

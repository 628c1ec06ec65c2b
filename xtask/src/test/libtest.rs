//! Reads what a Rust test program prints.

use std::collections::{BTreeMap, BTreeSet};

/// What happened to the tests of one program.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Ran and held.
    pub passed: BTreeSet<String>,
    /// Ran and did not.
    pub failed: BTreeSet<String>,
    /// Did not do what they are for, and why.
    pub skipped: BTreeMap<String, String>,
    /// What its tests want the reader of the summary to know.
    pub notes: BTreeSet<String>,
    /// Whether the program got to its own summary.
    pub complete: bool,
}

/// Reads the output of a run with `--show-output`.
///
/// A test skips by printing `SKIP <name>: <reason>` and returning; libtest shows that below the
/// heading `---- <test> stdout ----`, which names the test whatever `<name>` says. An `#[ignore]`d
/// test counts as skipped too. A line `NOTE <text>` goes to the summary, once.
pub fn parse(output: &str) -> Outcome {
    let mut outcome = Outcome::default();
    let mut skips: Vec<(Option<&str>, &str, &str)> = Vec::new();
    let mut section = None;
    for line in output.lines() {
        if let Some(name) = heading(line) {
            section = Some(name);
        } else if let Some((name, reason)) = skip(line) {
            skips.push((section, name, reason));
        } else if let Some(note) = line.strip_prefix("NOTE ") {
            outcome.notes.insert(note.trim().to_owned());
        } else if let Some((name, result)) = result(line) {
            match result.split_once(", ").unwrap_or((result, "")) {
                ("ok", _) => _ = outcome.passed.insert(name.to_owned()),
                ("FAILED" | "failed", _) => _ = outcome.failed.insert(name.to_owned()),
                ("ignored", why) => {
                    let why = if why.is_empty() { "ignored" } else { why };
                    outcome.skipped.insert(name.to_owned(), why.to_owned());
                }
                _ => {}
            }
        } else if line.starts_with("test result: ") {
            outcome.complete = true;
            section = None;
        } else if line == "successes:" || line == "failures:" {
            section = None;
        }
    }
    for (section, name, reason) in skips {
        let test = outcome.resolve(section, name);
        if outcome.failed.contains(&test) {
            continue;
        }
        outcome.passed.remove(&test);
        let reasons = outcome.skipped.entry(test).or_default();
        if !reasons.is_empty() {
            reasons.push_str("; ");
        }
        reasons.push_str(reason);
    }
    outcome
}

impl Outcome {
    /// The test that a skip line belongs to.
    fn resolve(&self, section: Option<&str>, name: &str) -> String {
        if let Some(section) = section {
            return section.to_owned();
        }
        let tail = format!("::{name}");
        self.passed
            .iter()
            .chain(&self.failed)
            .find(|test| *test == name || test.ends_with(&tail))
            .cloned()
            .unwrap_or_else(|| name.to_owned())
    }

    /// Tests of `listed` that neither passed, failed nor were skipped.
    pub fn unfinished(&self, listed: &[String]) -> Vec<String> {
        listed
            .iter()
            .filter(|name| {
                !self.passed.contains(*name)
                    && !self.failed.contains(*name)
                    && !self.skipped.contains_key(*name)
            })
            .cloned()
            .collect()
    }
}

/// `---- name stdout ----`
fn heading(line: &str) -> Option<&str> {
    line.strip_prefix("---- ")?.strip_suffix(" stdout ----")
}

/// `SKIP name: reason`
fn skip(line: &str) -> Option<(&str, &str)> {
    let (name, reason) = line.strip_prefix("SKIP ")?.split_once(": ")?;
    Some((name.trim(), reason.trim()))
}

/// `test name ... result`, also behind something a child of the test wrote without a line's end.
fn result(line: &str) -> Option<(&str, &str)> {
    let start = if line.starts_with("test ") { 0 } else { line.rfind("test ")? };
    let (name, result) = line.get(start + 5..)?.split_once(" ... ")?;
    let known = ["ok", "FAILED", "failed", "ignored"];
    known
        .iter()
        .any(|word| result == *word || result.starts_with(&format!("{word}, ")))
        .then(|| (name.strip_suffix(" - should panic").unwrap_or(name), result))
}

/// What the failing tests printed: all of it, without what the others did. Everything when the
/// program did not get to its summary.
pub fn failures(output: &str) -> &str {
    let start = match output.rfind("\ntest result: ") {
        Some(_) => output.find("\nfailures:\n").unwrap_or(0),
        None => 0,
    };
    output[start..].trim()
}

/// Names from `--list --format terse`.
pub fn parse_list(printed: &str) -> Vec<String> {
    printed.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\nrunning 6 tests
test a::one ... ok
half a linetest a::two ... ok
test a::three - should panic ... ok
test b ... FAILED
test c ... ignored, needs a moon
test d ... ignored

successes:

---- a::two stdout ----
looking for /dev/kvm
NOTE desktops: TCG
SKIP two: no /dev/kvm: emulated
---- a::one stdout ----
hello
NOTE desktops: TCG

successes:
    a::one

failures:

---- b stdout ----
SKIP b: but it failed afterwards
thread 'b' panicked

failures:
    b

test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out
";

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn a_whole_run() {
        let outcome = parse(OUTPUT);
        assert!(outcome.complete);
        assert_eq!(names(&outcome.passed), ["a::one", "a::three"]);
        assert_eq!(names(&outcome.failed), ["b"]);
        let skipped: Vec<_> =
            outcome.skipped.iter().map(|(name, why)| (name.as_str(), why.as_str())).collect();
        assert_eq!(
            skipped,
            [("a::two", "no /dev/kvm: emulated"), ("c", "needs a moon"), ("d", "ignored")]
        );
        assert_eq!(names(&outcome.notes), ["desktops: TCG"]);
    }

    #[test]
    fn only_what_failed_is_shown() {
        let shown = failures(OUTPUT);
        assert!(shown.starts_with("failures:\n\n---- b stdout ----"), "{shown}");
        assert!(shown.ends_with("filtered out"), "{shown}");
        assert_eq!(failures("test a ... ok\nboom"), "test a ... ok\nboom");
    }

    #[test]
    fn a_run_that_was_cut_off() {
        let outcome = parse("test a ... ok\ntest b");
        assert!(!outcome.complete);
        let listed = ["a".to_owned(), "b".to_owned()];
        assert_eq!(outcome.unfinished(&listed), ["b"]);
    }

    #[test]
    fn a_skip_without_a_heading_finds_its_test() {
        let outcome = parse("SKIP link: no veth\ntest net::link ... ok\n");
        assert_eq!(outcome.skipped.get("net::link").map(String::as_str), Some("no veth"));
        assert!(outcome.passed.is_empty());
    }

    #[test]
    fn lists() {
        assert_eq!(parse_list("a::b: test\nc: benchmark\n\n1 test"), ["a::b"]);
    }
}

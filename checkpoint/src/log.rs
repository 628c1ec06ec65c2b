//! From CRIU's log to a sentence for the user.

use std::fs;
use std::path::Path;

/// Name of the log in the work directory.
pub(crate) const LOG_FILE: &str = "criu.log";
/// Error lines kept for those who look closer.
const KEPT_LINES: usize = 12;
/// How much of a log is read.
const MAX_LOG_BYTES: usize = 256 * 1024;

/// Lines that CRIU calls errors and that are none, or that only repeat that it failed.
const NOISE: [&str; 6] = [
    "rlimit: Can't setup RLIMIT_NOFILE",
    "Dumping FAILED",
    "Restoring FAILED",
    "Restore failed",
    "exited, status=",
    "Unable to detach from",
];

/// Words for failures users meet: a part of CRIU's line, and what it means.
const KNOWN: [(&str, &str); 17] = [
    ("anon_inode:[io_uring]", "it uses io_uring, which cannot be saved"),
    ("anon_inode:[userfaultfd]", "it uses userfaultfd, which cannot be saved"),
    (
        "is outside of its pid namespace",
        "a process belongs to a session started outside of the capsule",
    ),
    ("Can't lookup mount", "a file was opened outside of the capsule's mounts"),
    ("is being ptraced", "a debugger is attached to it"),
    ("Unable to interrupt task", "a debugger is attached to it, or a process vanished"),
    ("ctty inheritance detected", "it holds /dev/tty open, and this CRIU lacks the terminal patch"),
    ("Connected TCP socket", "it has a network connection that cannot be taken along"),
    ("doesn't match the build-ID", "a file it has mapped was replaced by another version"),
    ("has bad size", "a file it has open was changed after it was saved"),
    ("has bad build-ID", "a file it has mapped was replaced by another version"),
    ("link-remap", "a file it has open lost the name it was opened by, but has another one"),
    ("No space left on device", "there is no room left for the image"),
    ("File too large", "saving was stopped"),
    ("Can't dump ghost file", "an unlinked file it still uses is too large to be taken along"),
    ("External socket is used", "it is connected to a socket outside of the capsule"),
    ("Pid collision", "a process id it needs is taken"),
];

/// The useful part of a failed run's log.
pub(crate) struct Failure {
    /// For the user.
    pub reason: String,
    /// The last error lines.
    pub lines: Vec<String>,
}

/// Reads the log in `work`; `fallback` is what CRIU's answer itself said.
pub(crate) fn explain(work: &Path, fallback: &str) -> Failure {
    let bytes = fs::read(work.join(LOG_FILE)).unwrap_or_default();
    let start = bytes.len().saturating_sub(MAX_LOG_BYTES);
    explain_text(&String::from_utf8_lossy(&bytes[start..]), fallback)
}

fn explain_text(log: &str, fallback: &str) -> Failure {
    let errors: Vec<&str> = log
        .lines()
        .filter(|line| line.contains("Error ("))
        .map(message)
        .filter(|text| !NOISE.iter().any(|noise| text.contains(noise)))
        .collect();
    let first = errors.first().copied().unwrap_or(fallback);
    let known = errors.iter().chain([&fallback]).find_map(|text| {
        KNOWN.iter().find(|(part, _)| text.contains(part)).map(|(_, words)| *words)
    });
    let reason = match known {
        Some(words) => format!("{words} ({first})"),
        None => first.to_owned(),
    };
    let skip = errors.len().saturating_sub(KEPT_LINES);
    Failure { reason, lines: errors.iter().skip(skip).map(|&line| line.to_owned()).collect() }
}

/// `(00.12) Error (criu/tty.c:23): text` -> `text`.
fn message(line: &str) -> &str {
    match line.split_once("Error (").and_then(|(_, rest)| rest.split_once("): ")) {
        Some((_, text)) => text.trim(),
        None => line.trim(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_useful_error_is_the_reason() {
        let log = "(00.1) Error (criu/util.c:1534): rlimit: Can't setup RLIMIT_NOFILE for self\n\
            (00.2) Warn  (criu/x.c:1): nothing\n\
            (00.2) Error (criu/files-reg.c:1831): Can't lookup mount=29 for fd=0 path=/dev/null\n\
            (00.3) Error (criu/cr-dump.c:1975): Dumping FAILED.\n";
        let failure = explain_text(log, "Operation failed");
        assert_eq!(
            failure.reason,
            "a file was opened outside of the capsule's mounts \
             (Can't lookup mount=29 for fd=0 path=/dev/null)"
        );
        assert_eq!(failure.lines.len(), 1);
    }

    #[test]
    fn without_a_log_the_answer_itself_is_the_reason() {
        assert_eq!(explain_text("", "No such process").reason, "No such process");
    }
}

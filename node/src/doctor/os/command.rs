//! Runs a program with a deadline.

use std::io::{self, PipeReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags};

use super::{descriptor, poll_until};

/// More output than this is not kept.
const OUTPUT_MAX: usize = 64 << 10;

/// How a program ended, and what it wrote to standard output and standard error together.
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// At most 64 KiB of what it wrote.
    pub output: String,
}

/// The first line of some output that says something, for messages.
pub fn first_line(output: &str) -> &str {
    output.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("no output")
}

/// Runs `command` with `input` (a few KiB at most, so that it fits in the pipe) and waits for its
/// end; past `limit` it is killed and the error is `TimedOut`.
pub fn run(command: &mut Command, input: &str, limit: Duration) -> io::Result<Outcome> {
    let (reader, writer) = io::pipe()?;
    command.stdin(Stdio::piped()).stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn()?;
    // The command keeps its ends of the pipe open until it gets others.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let output = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(input.as_bytes()))
        .or_else(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Ok(()),
            _ => Err(error),
        })
        .and_then(|()| read_until_end(&child, reader, limit));
    if output.is_err() {
        let _ = child.kill();
    }
    let status = child.wait()?;
    Ok(Outcome { status, output: String::from_utf8_lossy(&output?).into_owned() })
}

/// Collects output until the program has ended. Its children may hold the pipe open longer: they
/// are not waited for.
fn read_until_end(child: &Child, mut reader: PipeReader, limit: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + limit;
    let pidfd = pidfd_of(child)?;
    fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    let mut output = Vec::new();
    let mut open = true;
    loop {
        let mut wanted = [
            PollFd::new(pidfd.as_fd(), PollFlags::POLLIN),
            PollFd::new(reader.as_fd(), PollFlags::POLLIN),
        ];
        // A pipe without writers reports a hang-up for ever: leave it out then.
        let count = if open { 2 } else { 1 };
        if !poll_until(&mut wanted[..count], deadline)? {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let ended = wanted[0].any().unwrap_or(false);
        open &= drain(&mut reader, &mut output)?;
        if ended {
            return Ok(output);
        }
    }
}

/// Reads what is there; false at the end of the stream.
fn drain(reader: &mut PipeReader, output: &mut Vec<u8>) -> io::Result<bool> {
    let mut chunk = [0; 4096];
    loop {
        match reader.read(&mut chunk) {
            Ok(0) => return Ok(false),
            Ok(len) => {
                let room = OUTPUT_MAX.saturating_sub(output.len());
                output.extend_from_slice(&chunk[..len.min(room)]);
                if room == 0 {
                    return Ok(true);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn pidfd_of(child: &Child) -> io::Result<OwnedFd> {
    // SAFETY: takes numbers, returns a new descriptor. The child is not reaped yet, so the number
    // is still its.
    descriptor(unsafe { libc::syscall(libc::SYS_pidfd_open, child.id() as libc::pid_t, 0) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_returned() {
        let mut command = Command::new("sh");
        let outcome =
            run(command.args(["-c", "cat; echo two >&2; exit 3"]), "one\n", Duration::from_secs(5))
                .unwrap();
        assert_eq!(outcome.output, "one\ntwo\n");
        assert_eq!(first_line("\n  \n one \ntwo\n"), "one");
        assert_eq!(outcome.status.code(), Some(3));
    }

    #[test]
    fn a_program_that_hangs_is_ended_at_the_deadline() {
        let start = Instant::now();
        let error = run(Command::new("sleep").arg("60"), "", Duration::from_millis(100));
        assert_eq!(error.err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
        assert!(start.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn endless_output_and_a_lingering_grandchild_do_no_harm() {
        let flood = run(&mut Command::new("yes"), "", Duration::from_millis(200));
        assert_eq!(flood.err().map(|error| error.kind()), Some(io::ErrorKind::TimedOut));
        let start = Instant::now();
        let mut command = Command::new("sh");
        run(command.args(["-c", "sleep 3 & echo started"]), "", Duration::from_secs(60)).unwrap();
        assert!(start.elapsed() < Duration::from_secs(2));
    }
}

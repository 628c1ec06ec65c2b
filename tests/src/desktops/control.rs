//! QEMU's control channel: QMP, as far as desktops need it (qemu.org, "QEMU Machine Protocol").

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

/// How long QEMU may take to answer.
const ANSWER: Duration = Duration::from_secs(30);

/// The channel of one machine.
pub struct Control {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
    events: VecDeque<Value>,
    partial: String,
}

impl Control {
    /// Takes over a new channel.
    pub fn open(stream: UnixStream) -> anyhow::Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        let mut control = Self { stream, reader, events: VecDeque::new(), partial: String::new() };
        let greeting = control.message(Instant::now() + ANSWER)?;
        if greeting.get("QMP").is_none() {
            bail!("QEMU began with {greeting}");
        }
        control.run("qmp_capabilities", json!({}))?;
        let events = json!({"capabilities": [{"capability": "events", "state": true}]});
        control.run("migrate-set-capabilities", events)?;
        Ok(control)
    }

    /// Runs a command and gives what it returns.
    pub fn run(&mut self, command: &str, arguments: Value) -> anyhow::Result<Value> {
        let request = json!({"execute": command, "arguments": arguments});
        writeln!(self.stream, "{request}").with_context(|| format!("asking QEMU to {command}"))?;
        let end = Instant::now() + ANSWER;
        loop {
            let mut message =
                self.message(end).with_context(|| format!("waiting for QEMU to {command}"))?;
            if let Some(answer) = message.get_mut("return") {
                return Ok(answer.take());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU cannot {command}: {}", error["desc"].as_str().unwrap_or("no reason"));
            }
            self.events.push_back(message);
        }
    }

    /// Waits until the machine runs: one that goes on from a saved state reads it first.
    pub fn wait_running(&mut self, deadline: Duration) -> anyhow::Result<()> {
        if self.run("query-status", json!({}))?["running"] == true {
            return Ok(());
        }
        self.wait_event("the machine to go on", deadline, |event| event["event"] == "RESUME")
            .map(drop)
    }

    /// Waits for an event that `wanted` says yes to; those before it are forgotten.
    pub fn wait_event(
        &mut self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&Value) -> bool,
    ) -> anyhow::Result<Value> {
        let end = Instant::now() + deadline;
        loop {
            let event = match self.events.pop_front() {
                Some(event) => event,
                None => self.message(end).with_context(|| format!("waiting for {what}"))?,
            };
            if wanted(&event) {
                return Ok(event);
            }
        }
    }

    /// Reads one message.
    fn message(&mut self, end: Instant) -> anyhow::Result<Value> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("QEMU did not answer in time");
            }
            self.stream.set_read_timeout(Some(left))?;
            // A line that is cut by the time-out goes on with the next read.
            match self.reader.read_line(&mut self.partial) {
                Ok(0) => bail!("QEMU has ended"),
                Ok(_) => {
                    let line = std::mem::take(&mut self.partial);
                    return serde_json::from_str(&line)
                        .with_context(|| format!("QEMU said {line:?}"));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error).context("listening to QEMU"),
            }
        }
    }
}

//! A program whose copies give themselves away: it counts into a file by itself, wherever it runs.

use anyhow::ensure;

/// A line for a Python REPL: counts into the file `log`, ten times a second, and prints `started`.
pub const COUNTER: &str = "exec('''import threading, time\n\
def count():\n    out = open('log', 'w', buffering=1); k = 0\n    while True:\n        \
out.write(str(k) + chr(10)); k += 1; time.sleep(0.1)\n\
threading.Thread(target=count, daemon=True).start()\nprint('star' + 'ted')''')";

/// Whether one copy alone has written `log`.
pub fn counted_once(log: &str) -> anyhow::Result<()> {
    let numbers: Vec<u32> = log.lines().map(str::parse).collect::<Result<_, _>>()?;
    let wanted: Vec<u32> = (0..numbers.len() as u32).collect();
    ensure!(numbers == wanted, "two copies have written: {numbers:?}");
    Ok(())
}

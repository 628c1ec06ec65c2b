//! An app under observation: a Python REPL that counts.

use anyhow::{Context, ensure};
use phantom_tests::lab::{Key, LabNode, MOVE, Node, Pair, SOON, Terminal, wait_for_one};

/// A REPL that was started on the pair's home, and its user.
pub struct Session<'a> {
    pair: &'a Pair,
    name: String,
    command: String,
    terminal: Terminal,
    count: u32,
    ahead: u32,
}

impl<'a> Session<'a> {
    /// Starts it.
    pub fn start(pair: &'a Pair, name: &str) -> anyhow::Result<Self> {
        // The option means nothing to Python; it tells this REPL from all others on the machine.
        let tag = format!("{name}-{}", pair.home().pid());
        let args = ["run", "--name", name, "--", "/usr/bin/python3", "-q", "-X", &tag];
        let mut terminal = pair.home().terminal(&args)?;
        terminal.expect(">>> ", SOON)?;
        terminal.type_line("n = 0; state = {k: k * k for k in range(1000)}")?;
        terminal.expect(">>> ", SOON)?;
        let command = format!("/usr/bin/python3 -q -X {tag} ");
        Ok(Self { pair, name: name.into(), command, terminal, count: 0, ahead: 0 })
    }

    /// Its terminal.
    pub fn terminal(&mut self) -> &mut Terminal {
        &mut self.terminal
    }

    /// Its terminal answers and its state is what it was.
    pub fn answers(&mut self) -> anyhow::Result<()> {
        self.count += 1;
        let count = self.count;
        self.terminal.type_line("n += 1; print('count', n, len(state), state[31])")?;
        self.terminal
            .expect(&format!("count {count} 1000 961"), MOVE)
            .with_context(|| format!("the answer number {count} of {}", self.name))
    }

    /// Runs a line of Python and waits for what it prints.
    pub fn run(&mut self, line: &str, printed: &str) -> anyhow::Result<()> {
        self.terminal.type_line(line)?;
        // The echo of the line comes first.
        self.terminal.expect("\n", SOON)?;
        self.terminal.expect(printed, MOVE)
    }

    /// Types a line that nobody may read for a while.
    pub fn type_ahead(&mut self) -> anyhow::Result<()> {
        self.count += 1;
        self.ahead = self.count;
        self.terminal.type_line("n += 1; print('ahead', n)")
    }

    /// That line has arrived, before anything typed later.
    pub fn typed_ahead(&mut self) -> anyhow::Result<()> {
        let found = String::from_utf8_lossy(self.terminal.transcript())
            .contains(&format!("ahead {}", self.ahead));
        ensure!(found, "the line typed ahead has not arrived in its place");
        Ok(())
    }

    /// It is alive on `host` and nowhere else, and answers.
    pub fn lives_on(&mut self, host: &LabNode) -> anyhow::Result<()> {
        self.pair.wait_for_host(&self.name, host.name())?;
        self.answers()?;
        wait_for_one(&self.command, MOVE)
    }

    /// The one line that the failed move to `node` ended with.
    pub fn refused(&self, node: &LabNode) -> anyhow::Result<String> {
        let output = self.pair.home().phantom(true, &["migrate", &self.name, node.name()])?;
        one_line(output.code, &output.stderr)
    }

    /// Ends it as its user would, at the prompt: an end of file that is typed before readline has
    /// taken the terminal out of its line mode reaches it as a NUL.
    pub fn end(mut self) -> anyhow::Result<()> {
        self.terminal.expect(">>> ", SOON)?;
        self.terminal.press(Key::Ctrl('d'))?;
        ensure!(self.terminal.wait(SOON)? == 0, "the REPL ended badly");
        Ok(())
    }
}

/// The one line a failed command printed.
pub fn one_line(code: i32, text: &str) -> anyhow::Result<String> {
    let line = text.trim().to_owned();
    ensure!(code == 1, "exit code {code}: {line}");
    ensure!(!line.is_empty() && line.lines().count() == 1, "not one line: {line:?}");
    Ok(line)
}

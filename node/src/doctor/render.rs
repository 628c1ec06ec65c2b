//! The report for people.

use super::{Ability, Check, Report, State};

const WIDTH: usize = 80;
/// Columns of the state, with the blanks around it.
const STATE_COLUMNS: usize = 11;

impl Report {
    /// The report as text for a terminal of 80 columns, one group for each ability.
    pub fn to_text(&self, colour: bool) -> String {
        let names = self.checks.iter().map(|check| check.name.chars().count()).max().unwrap_or(0);
        let mut text = String::new();
        for ability in Ability::ALL {
            let mut group =
                self.checks.iter().filter(|check| check.gives.first() == Some(&ability)).peekable();
            if group.peek().is_none() {
                continue;
            }
            text += &format!("{}\n", paint(&ability.to_string(), BOLD, colour));
            group.for_each(|check| put_check(&mut text, check, names + 2, colour));
            text.push('\n');
        }
        for line in wrap(&self.closing_line(), WIDTH) {
            text += &line;
            text.push('\n');
        }
        text
    }

    /// What the node can and cannot do, for want of what, and what could not be told.
    pub fn closing_line(&self) -> String {
        let because = |abilities: &[Ability], state: State| {
            let causes = abilities.iter().map(|ability| {
                let names: Vec<_> = self
                    .checks
                    .iter()
                    .filter(|check| {
                        check.essential && check.state == state && check.gives.contains(ability)
                    })
                    .map(|check| check.name)
                    .collect();
                format!("{ability} ({})", names.join(", "))
            });
            list(causes.collect())
        };
        let mut parts = Vec::new();
        if !self.can.is_empty() {
            parts.push(format!("can {}", list(self.can.iter().map(Ability::to_string).collect())));
        }
        if !self.cannot.is_empty() {
            parts.push(format!("cannot {}", because(&self.cannot, State::Missing)));
        }
        let mut line = match parts.is_empty() {
            true => String::new(),
            false => format!("This node {}.", parts.join("; it ")),
        };
        let unknown = self.checks.iter().find(|check| check.state == State::Unknown);
        if let Some(remedy) = unknown.and_then(|check| check.remedy.as_ref()) {
            if self.unknown.is_empty() {
                line += &format!(" More is known after: {remedy}");
            } else {
                let unknown = because(&self.unknown, State::Unknown);
                line += &format!(" Not known is whether it can {unknown}: {remedy}");
            }
        }
        line.trim_start().to_owned()
    }
}

fn put_check(text: &mut String, check: &Check, name_columns: usize, colour: bool) {
    let (word, code) = match check.state {
        State::Ok => ("ok", GREEN),
        State::Limited => ("limited", YELLOW),
        State::Missing => ("missing", RED),
        State::Unknown => ("unknown", YELLOW),
    };
    let indent = STATE_COLUMNS + name_columns;
    // Painting adds invisible characters: pad first.
    let word = paint(&format!("  {word:<width$}", width = STATE_COLUMNS - 2), code, colour);
    *text += &format!("{word}{:<name_columns$}", check.name);
    for (index, line) in wrap(&check.found, WIDTH - indent).iter().enumerate() {
        let blank = if index == 0 { 0 } else { indent };
        *text += &format!("{:blank$}{line}\n", "");
    }
    // What would tell more is the same for all: the closing line says it once.
    if let Some(remedy) = check.remedy.as_ref().filter(|_| check.state != State::Unknown) {
        const MEND: &str = "mend: ";
        let indent = STATE_COLUMNS + MEND.len();
        // A command is kept in one piece, to be copied.
        let whole = ["sudo ", "cargo ", "echo "].iter().any(|start| remedy.starts_with(start));
        let lines = wrap(remedy, if whole { usize::MAX } else { WIDTH - indent });
        for (index, line) in lines.iter().enumerate() {
            let lead = if index == 0 { MEND } else { "" };
            *text += &format!("{:STATE_COLUMNS$}{lead:<len$}{line}\n", "", len = MEND.len());
        }
    }
}

const BOLD: &str = "1";
const GREEN: &str = "32";
const YELLOW: &str = "33";
const RED: &str = "31";

fn paint(text: &str, code: &str, colour: bool) -> String {
    if colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
}

/// `a`, `a and b`, `a, b and c`.
fn list(mut items: Vec<String>) -> String {
    match items.pop() {
        Some(last) if !items.is_empty() => format!("{} and {last}", items.join(", ")),
        last => last.unwrap_or_default(),
    }
}

/// Breaks `text` between words into lines of at most `width` characters; a longer word keeps a
/// line for itself. Never empty. What programs said is shown without control characters.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()) {
        let len = word.chars().count();
        if len == 0 {
            continue;
        }
        if used > 0 && used + 1 + len > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            *line += word;
            used += len;
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_wrapped_and_never_lost() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("", 7), [""]);
        assert_eq!(wrap("a verylongword b", 5), ["a", "verylongword", "b"]);
        assert_eq!(wrap("red\x1b[31m\nline", 80), ["red [31m line"]);
    }

    #[test]
    fn lists_read_like_a_sentence() {
        let words = |count: usize| ["a", "b", "c"].map(str::to_owned)[..count].to_vec();
        assert_eq!(list(words(0)), "");
        assert_eq!(list(words(1)), "a");
        assert_eq!(list(words(2)), "a and b");
        assert_eq!(list(words(3)), "a, b and c");
    }
}

//! The old syntax of ads, in which job queues and `condor_status -long` have them: a line for each
//! attribute, `Name = expression`, without an end mark. In its strings a backslash is a backslash,
//! except in front of a quote that does not end the line. Ads are parted by empty lines.

use thiserror::Error;

use crate::lex::Dialect;
use crate::name::Name;
use crate::write::{Style, Writer};
use crate::{Ad, Expr, MAX_TEXT, ParseError};

/// An ad that the old syntax has no words for.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name} cannot be written on a line: it holds a line end or a backslash before a quote")]
pub struct WriteError {
    /// The attribute's name.
    pub name: String,
}

impl Ad {
    /// Reads an ad in the old syntax. Empty lines and those that begin with `#` are passed over; the
    /// place in an error is that in the whole text, which has at most [`MAX_TEXT`] bytes.
    pub fn parse_old(text: &str) -> Result<Self, ParseError> {
        if text.len() > MAX_TEXT {
            return Err(ParseError::new(MAX_TEXT, "an ad has at most a mebibyte"));
        }
        let (mut ad, mut at) = (Ad::default(), 0);
        for (number, line) in text.split('\n').enumerate() {
            let content = line.trim();
            if !content.is_empty() && !content.starts_with('#') {
                let begin = at + line.len() - line.trim_start().len();
                let (name, expr) = attribute(content).map_err(|error| ParseError {
                    at: begin + error.at,
                    what: format!("line {}: {}", number + 1, error.what),
                })?;
                ad.set(name, expr);
            }
            at += line.len() + 1;
        }
        Ok(ad)
    }

    /// Reads the ads of a text in which empty lines, or lines of asterisks as in a job history, part
    /// them. What is wrong with one does not concern the others.
    pub fn parse_old_all(text: &str) -> impl Iterator<Item = Result<Self, ParseError>> {
        let mut rest = text;
        std::iter::from_fn(move || {
            while !rest.is_empty() {
                let part = next_part(&mut rest);
                let is_content = |line: &str| !line.is_empty() && !line.starts_with('#');
                if part.lines().any(|line| is_content(line.trim())) {
                    return Some(Ad::parse_old(part));
                }
            }
            None
        })
    }

    /// Writes it in the old syntax, attributes in the reference's order: by the length of their names
    /// and then by their letters. What is written reads back as the same.
    pub fn to_old(&self) -> Result<String, WriteError> {
        let mut attributes: Vec<(&Name, &Expr)> = self.attributes().collect();
        attributes.sort_by(|(one, _), (other, _)| crate::write::order(one, other));
        let mut text = String::new();
        for (name, expr) in attributes {
            let begin = text.len();
            let mut writer = Writer { to: &mut text, style: Style::Old };
            // A string takes whatever is written to it.
            let _ = writer.name(name);
            let _ = writer.to.write_str(" = ");
            let _ = writer.expr(expr);
            let line = &text[begin..];
            // Where there is a backslash, only reading tells.
            let is_same = || attribute(line).is_ok_and(|it| it.1 == *expr);
            if line.contains('\n') || (line.contains('\\') && !is_same()) {
                return Err(WriteError { name: name.written().to_owned() });
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// What comes before a line that parts ads.
fn next_part<'a>(rest: &mut &'a str) -> &'a str {
    let whole = *rest;
    let mut at = 0;
    for line in whole.split_inclusive('\n') {
        if line.trim().is_empty() || line.starts_with("***") {
            *rest = &whole[at + line.len()..];
            return &whole[..at];
        }
        at += line.len();
    }
    *rest = "";
    whole
}

/// `Name = expression`.
fn attribute(line: &str) -> Result<(Name, Expr), ParseError> {
    let name = name(line).ok_or_else(|| ParseError::new(0, "`Name = expression` is wanted"))?;
    let (name, begin) = name;
    let moved = |error: ParseError| ParseError { at: begin + error.at, ..error };
    Ok((name, crate::parse::one(&line[begin..], Dialect::Old).map_err(moved)?))
}

/// The name, and where the expression begins.
fn name(line: &str) -> Option<(Name, usize)> {
    let (written, behind) = match line.strip_prefix('\'') {
        Some(quoted) => quoted.split_once('\'')?,
        None => {
            let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            let end = line.find(|c| !is_part(c))?;
            line.split_at(end)
        }
    };
    let expr = behind.trim_start().strip_prefix('=')?;
    (!written.is_empty()).then(|| (Name::new(written), line.len() - expr.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_and_written_line_by_line() {
        let text = "# a job\r\nCmd = \"C:\\bin\\\"\nArgs = \"say \\\"a\\nb\\\" twice\"\n\n\
            Requirements = (TARGET.Arch == \"X86_64\") && TARGET.Memory >= RequestMemory\n\
            RequestMemory=2048\nRank = -Mips / 1.5\n'odd name' = Cmd =?= undefined\n";
        let ad = Ad::parse_old(text).unwrap();
        assert_eq!(ad.value("cmd"), crate::Value::from("C:\\bin\\"));
        assert_eq!(ad.value("args"), crate::Value::from("say \"a\\nb\" twice"));
        let written = ad.to_old().unwrap();
        assert_eq!(
            written,
            "Cmd = \"C:\\bin\\\"\nArgs = \"say \\\"a\\nb\\\" twice\"\nRank =  -Mips / 1.5\n\
             'odd name' = Cmd =?= undefined\n\
             Requirements = (TARGET.Arch == \"X86_64\") && TARGET.Memory >= RequestMemory\n\
             RequestMemory = 2048\n"
        );
        let again = Ad::parse_old(&written).unwrap();
        assert!(ad.iter().all(|(name, expr)| again.get(name) == Some(expr)));
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        let error = Ad::parse_old("a = 1\n\nb 2\n").unwrap_err();
        assert_eq!((error.at, &*error.what), (7, "line 3: `Name = expression` is wanted"));
        let error = Ad::parse_old("a = 1\n  b = (2\n").unwrap_err();
        assert_eq!(error.at, "a = 1\n  b = (2".len());
        assert!(error.what.starts_with("line 2: `)` is wanted"), "{error}");
    }

    #[test]
    fn empty_lines_part_ads() {
        let text = "\n# first\na = 1\n\n\nb = \nc = 3\n*** 7\nd = 4";
        let ads: Vec<_> = Ad::parse_old_all(text).collect();
        let counts: Vec<_> = ads.iter().map(|ad| ad.as_ref().map(Ad::len).ok()).collect();
        assert_eq!(counts, [Some(1), None, Some(1)]);
    }

    #[test]
    fn what_no_line_holds_is_refused() {
        for text in [r#"[ a = "x\ny" ]"#, r#"[ a = { "x\\", 1 } ]"#] {
            assert_eq!(Ad::parse(text).unwrap().to_old().unwrap_err().name, "a", "{text}");
        }
    }
}

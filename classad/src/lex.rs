//! Text into tokens, one at a time.

use std::borrow::Cow;

use crate::ParseError;
use crate::expr::Binary;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token<'a> {
    Int(i64),
    Real(f64),
    Text(Cow<'a, str>),
    /// A name; quoted ones are no keywords.
    Name {
        name: Cow<'a, str>,
        quoted: bool,
    },
    /// `?:`
    Otherwise,
    /// An operator of two sides. `+` and `-` may turn out to have one only.
    Operator(Binary),
    /// A bracket, or one of `= ! ~ ? : ; , .`
    Mark(u8),
    End,
}

/// How strings are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// With escapes as C has them.
    New,
    /// A backslash is a backslash, except before a quote that is not the text's last character.
    Old,
}

pub(crate) struct Lexer<'a> {
    text: &'a str,
    at: usize,
    dialect: Dialect,
    /// Whether the last token ended a value, so that a `-` takes something away from it.
    after_value: bool,
}

impl<'a> Lexer<'a> {
    pub(crate) fn new(text: &'a str, dialect: Dialect) -> Self {
        Self { text, at: 0, dialect, after_value: false }
    }

    /// The next token, and where it begins.
    pub(crate) fn next(&mut self) -> Result<(usize, Token<'a>), ParseError> {
        self.skip_blanks()?;
        let at = self.at;
        let bytes = self.text.as_bytes();
        let Some(first) = bytes.get(at) else { return Ok((at, Token::End)) };
        let digit = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_digit);
        let begins_number =
            |at: usize| digit(at) || (bytes.get(at) == Some(&b'.') && digit(at + 1));
        let token = match first {
            b'"' => Token::Text(self.quoted(b'"')?),
            b'\'' => Token::Name { name: self.quoted(b'\'')?, quoted: true },
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || **byte == b'_';
                self.at += bytes[at..].iter().take_while(is_part).count();
                Token::Name { name: Cow::Borrowed(&self.text[at..self.at]), quoted: false }
            }
            _ if begins_number(at) => self.number()?,
            b'-' if !self.after_value && begins_number(at + 1) => self.number()?,
            _ => self.mark()?,
        };
        self.after_value = match &token {
            Token::Int(_) | Token::Real(_) | Token::Text(_) => true,
            Token::Name { name, quoted } => *quoted || !is_operator(name),
            Token::Mark(mark) => matches!(mark, b')' | b']' | b'}' | b'.'),
            Token::Operator(_) | Token::Otherwise | Token::End => false,
        };
        Ok((at, token))
    }

    fn skip_blanks(&mut self) -> Result<(), ParseError> {
        loop {
            let rest = &self.text.as_bytes()[self.at..];
            if rest.first().is_some_and(is_blank) {
                self.at += 1;
            } else if rest.starts_with(b"//") {
                self.at += rest.iter().position(|byte| *byte == b'\n').unwrap_or(rest.len());
            } else if rest.starts_with(b"/*") {
                let end = self.text[self.at + 2..].find("*/");
                let end = end.ok_or_else(|| ParseError::new(self.at, "a comment has no end"))?;
                self.at += end + 4;
            } else {
                return Ok(());
            }
        }
    }

    fn mark(&mut self) -> Result<Token<'a>, ParseError> {
        let rest = &self.text.as_bytes()[self.at..];
        let (binary, length) = match rest {
            [b'>', b'>', b'>', ..] => (Binary::ShiftRightLogical, 3),
            [b'=', b'?', b'=', ..] => (Binary::Is, 3),
            [b'=', b'!', b'=', ..] => (Binary::IsNot, 3),
            [b'<', b'<', ..] => (Binary::ShiftLeft, 2),
            [b'>', b'>', ..] => (Binary::ShiftRight, 2),
            [b'<', b'=', ..] => (Binary::LessEqual, 2),
            [b'>', b'=', ..] => (Binary::GreaterEqual, 2),
            [b'=', b'=', ..] => (Binary::Equal, 2),
            [b'!', b'=', ..] => (Binary::NotEqual, 2),
            [b'&', b'&', ..] => (Binary::And, 2),
            [b'|', b'|', ..] => (Binary::Or, 2),
            [b'<', ..] => (Binary::Less, 1),
            [b'>', ..] => (Binary::Greater, 1),
            [b'&', ..] => (Binary::BitAnd, 1),
            [b'|', ..] => (Binary::BitOr, 1),
            [b'^', ..] => (Binary::BitXor, 1),
            [b'+', ..] => (Binary::Add, 1),
            [b'-', ..] => (Binary::Subtract, 1),
            [b'*', ..] => (Binary::Multiply, 1),
            [b'/', ..] => (Binary::Divide, 1),
            [b'%', ..] => (Binary::Modulus, 1),
            [b'?', behind @ ..] if behind.trim_ascii_start().first() == Some(&b':') => {
                self.at += rest.len() - behind.trim_ascii_start().len() + 1;
                return Ok(Token::Otherwise);
            }
            [mark, ..] if b"(){}[]=!~?:;,.".contains(mark) => {
                self.at += 1;
                return Ok(Token::Mark(*mark));
            }
            _ => {
                let first = self.text[self.at..].chars().next().unwrap_or(' ');
                let what = format!("`{}` has no meaning here", first.escape_default());
                return Err(ParseError::new(self.at, what));
            }
        };
        self.at += length;
        Ok(Token::Operator(binary))
    }

    /// A number; its sign, if it has one, belongs to it.
    fn number(&mut self) -> Result<Token<'a>, ParseError> {
        let at = self.at;
        let bytes = &self.text.as_bytes()[at..];
        let digits =
            |from: usize| from + bytes[from..].iter().take_while(|it| it.is_ascii_digit()).count();
        let first = usize::from(bytes[0] == b'-');
        let whole = digits(first);
        let mut end = whole;
        if bytes.get(end) == Some(&b'.') {
            end = digits(whole + 1);
            if end == whole + 1 {
                return Err(ParseError::new(at, "a number ends in a point"));
            }
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            let after = digits((end + 1 + sign).min(bytes.len()));
            if after > end + 1 + sign {
                end = after;
            }
        }
        if bytes.get(end).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_') {
            return Err(ParseError::new(at, "a number ends in letters"));
        }
        self.at += end;
        let text = &self.text[at..self.at];
        let is_real = end > whole;
        if !is_real && whole - first > 1 && bytes[first] == b'0' {
            return Err(ParseError::new(at, "an integer begins with a zero"));
        }
        Ok(match text.parse() {
            Ok(number) if !is_real => Token::Int(number),
            _ => Token::Real(text.parse().map_err(|_| ParseError::new(at, "not a number"))?),
        })
    }

    /// What is between quotes; what is quoted next to it belongs to it.
    fn quoted(&mut self, quote: u8) -> Result<Cow<'a, str>, ParseError> {
        let mut whole = self.one_quoted(quote)?;
        while self.dialect == Dialect::New {
            let rest = &self.text.as_bytes()[self.at..];
            let blanks = rest.iter().take_while(|byte| is_blank(byte)).count();
            if rest.get(blanks) != Some(&quote) {
                break;
            }
            self.at += blanks;
            let more = self.one_quoted(quote)?;
            whole.to_mut().push_str(&more);
        }
        Ok(whole)
    }

    fn one_quoted(&mut self, quote: u8) -> Result<Cow<'a, str>, ParseError> {
        let at = self.at;
        let inside = &self.text.as_bytes()[at + 1..];
        let plain = inside.iter().position(|byte| *byte == quote || *byte == b'\\' || *byte == 0);
        let open = || ParseError::new(at, "the quote is not closed");
        let plain = plain.ok_or_else(open)?;
        if inside[plain] == quote {
            self.at += plain + 2;
            return Ok(Cow::Borrowed(&self.text[at + 1..at + 1 + plain]));
        }
        let mut bytes = inside[..plain].to_vec();
        let mut next = plain;
        loop {
            let byte = *inside.get(next).ok_or_else(open)?;
            next += 1;
            match byte {
                0 => return Err(ParseError::new(at + next, "a string cannot hold a NUL")),
                b'\\' => next += self.escaped(&inside[next..], quote, at + next, &mut bytes)?,
                byte if byte == quote => break,
                byte => bytes.push(byte),
            }
        }
        self.at += next + 1;
        let text = String::from_utf8(bytes);
        Ok(Cow::Owned(
            text.unwrap_or_else(|it| String::from_utf8_lossy(it.as_bytes()).into_owned()),
        ))
    }

    /// What is behind a backslash, and how many bytes of it are used up.
    fn escaped(
        &self,
        rest: &[u8],
        quote: u8,
        at: usize,
        into: &mut Vec<u8>,
    ) -> Result<usize, ParseError> {
        let Some(first) = rest.first() else { return Ok(0) };
        if self.dialect == Dialect::Old {
            let goes_on = rest.get(1).is_some_and(|next| !matches!(next, b'\n' | b'\r'));
            let is_quote = *first == quote && goes_on;
            into.push(if is_quote { quote } else { b'\\' });
            return Ok(usize::from(is_quote));
        }
        into.push(match first {
            b'a' => 7,
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            b'0'..=b'7' => {
                let digit = |at: usize| rest.get(at).filter(|it| matches!(it, b'0'..=b'7'));
                let mut code = first - b'0';
                let mut used = 1;
                // A third digit only where the code stays a byte.
                while let Some(next) = digit(used).filter(|_| used < 3 && code < 0o40) {
                    code = code * 8 + (next - b'0');
                    used += 1;
                }
                if code == 0 {
                    return Err(ParseError::new(at, "a string cannot hold a NUL"));
                }
                into.push(code);
                return Ok(used);
            }
            0 => return Err(ParseError::new(at, "a string cannot hold a NUL")),
            other => *other,
        });
        Ok(1)
    }
}

fn is_operator(name: &str) -> bool {
    name.eq_ignore_ascii_case("is") || name.eq_ignore_ascii_case("isnt")
}

fn is_blank(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 11 | 12)
}

//! Text into tokens.

use crate::ParseError;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Token {
    Int(i64),
    Real(f64),
    Text(String),
    /// A name; quoted ones are no keywords.
    Name {
        name: String,
        quoted: bool,
    },
    /// An operator or a bracket.
    Mark(&'static str),
    End,
}

/// Longer ones first.
const MARKS: [&str; 36] = [
    ">>>", "=?=", "=!=", "<<", ">>", "<=", ">=", "==", "!=", "&&", "||", "?:", "(", ")", "{", "}",
    "[", "]", "<", ">", "=", "!", "&", "|", "^", "~", "+", "-", "*", "/", "%", "?", ":", ";", ",",
    ".",
];

/// Each token with where it begins.
pub(crate) fn tokens(text: &str) -> Result<Vec<(usize, Token)>, ParseError> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
        } else if rest.starts_with("//") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let end = rest.find("*/").ok_or_else(|| ParseError::new(at, "a comment has no end"))?;
            at += end + 2;
        } else if first.is_ascii_digit()
            || (first == '.' && rest[1..].starts_with(|next: char| next.is_ascii_digit()))
        {
            let (token, len) = number(rest, at)?;
            found.push((at, token));
            at += len;
        } else if first.is_ascii_alphabetic() || first == '_' {
            let len =
                rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(rest.len());
            found.push((at, Token::Name { name: rest[..len].to_owned(), quoted: false }));
            at += len;
        } else if first == '"' || first == '\'' {
            let (inside, len) = quoted(rest, first, at)?;
            let name = |name| Token::Name { name, quoted: true };
            found.push((at, if first == '"' { Token::Text(inside) } else { name(inside) }));
            at += len;
        } else {
            let mark = MARKS.iter().find(|mark| rest.starts_with(**mark)).ok_or_else(|| {
                ParseError::new(at, format!("`{}` has no meaning here", first.escape_default()))
            })?;
            found.push((at, Token::Mark(mark)));
            at += mark.len();
        }
    }
    found.push((text.len(), Token::End));
    Ok(found)
}

fn number(rest: &str, at: usize) -> Result<(Token, usize), ParseError> {
    let digits = |from: usize| from + rest[from..].bytes().take_while(u8::is_ascii_digit).count();
    let bytes = rest.as_bytes();
    let mut end = digits(0);
    let mut is_real = false;
    if bytes.get(end) == Some(&b'.') {
        is_real = true;
        end = digits(end + 1);
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let after = digits(end + 1 + sign);
        if after > end + 1 + sign {
            is_real = true;
            end = after;
        }
    }
    let follows = rest[end..].starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
    if follows {
        return Err(ParseError::new(at, "a number ends in letters"));
    }
    let text = &rest[..end];
    let token = match text.parse() {
        Ok(number) if !is_real => Token::Int(number),
        _ => Token::Real(text.parse().map_err(|_| ParseError::new(at, "not a number"))?),
    };
    Ok((token, end))
}

/// What is between quotes, and how long all of it is.
fn quoted(rest: &str, quote: char, at: usize) -> Result<(String, usize), ParseError> {
    let mut inside = String::new();
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((here, c)) = chars.next() {
        if c == quote {
            return Ok((inside, here + 1));
        }
        if c != '\\' {
            inside.push(c);
            continue;
        }
        let Some((_, escaped)) = chars.next() else { break };
        match escaped {
            'n' => inside.push('\n'),
            't' => inside.push('\t'),
            'r' => inside.push('\r'),
            'b' => inside.push('\u{8}'),
            'f' => inside.push('\u{c}'),
            '0'..='7' => {
                let mut code = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    let next = chars.peek().and_then(|(_, c)| c.to_digit(8));
                    let Some(digit) = next.filter(|digit| code * 8 + digit < 256) else { break };
                    code = code * 8 + digit;
                    chars.next();
                }
                if code == 0 {
                    return Err(ParseError::new(at + here, "a string cannot hold a NUL"));
                }
                inside.push(char::from_u32(code).unwrap_or('?'));
            }
            other => inside.push(other),
        }
    }
    Err(ParseError::new(at, "the quote is not closed"))
}

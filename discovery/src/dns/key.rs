//! Keys for updates of a zone (TSIG, RFC 8945), in the form in which BIND's `tsig-keygen` writes
//! them and `named.conf` includes them.

use std::fmt;

use data_encoding::BASE64;
use thiserror::Error;

use crate::uri::{MAX_LABEL, MAX_NAME, short};

/// No longer file is read, in bytes.
pub const MAX_FILE: usize = 16 * 1024;
/// A secret has so many bytes: fewer can be guessed, more serve nothing.
const SECRET: std::ops::RangeInclusive<usize> = 16..=512;

/// How messages are authenticated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// HMAC-SHA256.
    HmacSha256,
    /// HMAC-SHA384.
    HmacSha384,
    /// HMAC-SHA512.
    HmacSha512,
}

/// A key that the zone's server knows too.
#[derive(Clone, PartialEq, Eq)]
pub struct TsigKey {
    name: String,
    algorithm: Algorithm,
    secret: Vec<u8>,
}

/// What is wrong with a key file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{file}:{line}: {what}; `tsig-keygen NAME` prints a file as it should be")]
pub struct KeyError {
    /// The file.
    pub file: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Debug for TsigKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, algorithm) = (&self.name, self.algorithm);
        f.debug_struct("TsigKey").field("name", name).field("algorithm", &algorithm).finish()
    }
}

impl TsigKey {
    /// Reads the one key of a file whose text this is: `key "NAME" { algorithm hmac-sha256; secret
    /// "BASE64"; };`, with comments as in `named.conf`. `file` is what errors call it.
    ///
    /// # Errors
    /// When it is anything else, with the line.
    pub fn parse(text: &str, file: &str) -> Result<Self, KeyError> {
        let mut reader = Reader { file, rest: text, line: 1 };
        if text.len() > MAX_FILE {
            return Err(reader.wrong(1, "the file is too long for one key"));
        }
        reader.expect(Token::Word("key"), "the file does not begin with `key`")?;
        let name = match reader.token()? {
            (line, Some(Token::Word(text) | Token::Quoted(text))) => key_name(text).ok_or(line),
            (line, _) => Err(line),
        };
        let name =
            name.map_err(|line| reader.wrong(line, "after `key` there is no name of a key"))?;
        reader.expect(Token::Sign('{'), "after the name of the key there is no `{`")?;
        let (mut algorithm, mut secret) = (None, None);
        let end = loop {
            let (line, field) = match reader.token()? {
                (line, Some(Token::Sign('}'))) => break line,
                (line, Some(Token::Word(field @ ("algorithm" | "secret")))) => (line, field),
                (line, Some(Token::Word(other))) => {
                    return Err(reader.wrong(line, &format!("a key has no `{}`", short(other))));
                }
                (line, _) => return Err(reader.wrong(line, "the key has no `}` at its end")),
            };
            let (Token::Word(value) | Token::Quoted(value)) =
                reader.token()?.1.unwrap_or(Token::Sign(' '))
            else {
                return Err(reader.wrong(line, &format!("`{field}` says nothing")));
            };
            let twice = if field == "algorithm" {
                let read = read_algorithm(value).map_err(|what| reader.wrong(line, &what))?;
                algorithm.replace(read).is_some()
            } else {
                let read = read_secret(value).map_err(|what| reader.wrong(line, what))?;
                secret.replace(read).is_some()
            };
            if twice {
                return Err(reader.wrong(line, &format!("`{field}` is there twice")));
            }
            reader.expect(Token::Sign(';'), &format!("after `{field}` there is no `;`"))?;
        };
        reader.expect(Token::Sign(';'), "after `}` there is no `;`")?;
        if let (line, Some(_)) = reader.token()? {
            let what = "after the key there is something more: one file, one key";
            return Err(reader.wrong(line, what));
        }
        let algorithm = algorithm.ok_or_else(|| reader.wrong(end, "the key has no `algorithm`"))?;
        let secret = secret.ok_or_else(|| reader.wrong(end, "the key has no `secret`"))?;
        Ok(Self { name, algorithm, secret })
    }

    /// Its name: that by which the server knows it, in lower case and without a dot at its end.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How messages are authenticated with it.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its secret.
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }
}

/// The name of a key has the form of a domain name (RFC 8945, 4.2).
fn key_name(text: &str) -> Option<String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let letter = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let label = |label: &str| (1..=MAX_LABEL).contains(&label.len()) && label.bytes().all(letter);
    let fits = name.len() <= MAX_NAME && name.split('.').all(label);
    fits.then(|| name.to_ascii_lowercase())
}

fn read_algorithm(text: &str) -> Result<Algorithm, String> {
    match text.to_ascii_lowercase().as_str() {
        "hmac-sha256" => Ok(Algorithm::HmacSha256),
        "hmac-sha384" => Ok(Algorithm::HmacSha384),
        "hmac-sha512" => Ok(Algorithm::HmacSha512),
        _ => {
            let text = short(text);
            Err(format!("`{text}` is not hmac-sha256, hmac-sha384 or hmac-sha512"))
        }
    }
}

fn read_secret(text: &str) -> Result<Vec<u8>, &'static str> {
    // The text itself is not shown: error messages end up in logs.
    match BASE64.decode(text.as_bytes()) {
        Ok(secret) if SECRET.contains(&secret.len()) => Ok(secret),
        Ok(_) => Err("the secret does not have 16 to 512 bytes"),
        Err(_) => Err("the secret is not base 64"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    Quoted(&'a str),
    Sign(char),
}

/// Takes a text apart as `named.conf` is.
struct Reader<'a> {
    file: &'a str,
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn wrong(&self, line: usize, what: &str) -> KeyError {
        KeyError { file: self.file.to_owned(), line, what: what.to_owned() }
    }

    /// Takes this token; `what` is wrong where there is another.
    fn expect(&mut self, wanted: Token<'_>, what: &str) -> Result<(), KeyError> {
        match self.token()? {
            (_, Some(token)) if token == wanted => Ok(()),
            (line, _) => Err(self.wrong(line, what)),
        }
    }

    /// The next token with its line; `None` at the end.
    fn token(&mut self) -> Result<(usize, Option<Token<'a>>), KeyError> {
        self.pass_over()?;
        let line = self.line;
        let Some(first) = self.rest.chars().next() else { return Ok((line, None)) };
        let token = match first {
            '{' | '}' | ';' => {
                self.take(1);
                Token::Sign(first)
            }
            '"' => {
                self.take(1);
                let text = self.take(self.rest.find(['"', '\n']).unwrap_or(self.rest.len()));
                if !self.rest.starts_with('"') {
                    return Err(self.wrong(line, "a quoted text has no end"));
                }
                self.take(1);
                Token::Quoted(text)
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, '{' | '}' | ';' | '"');
                let end = self.rest.find(ends).unwrap_or(self.rest.len());
                Token::Word(self.take(end))
            }
        };
        Ok((line, Some(token)))
    }

    /// Passes over blanks and comments.
    fn pass_over(&mut self) -> Result<(), KeyError> {
        loop {
            let blanks = self.rest.len() - self.rest.trim_start().len();
            self.take(blanks);
            if self.rest.starts_with('#') || self.rest.starts_with("//") {
                let end = self.rest.find('\n').unwrap_or(self.rest.len());
                self.take(end);
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/");
                let end = end.ok_or_else(|| self.wrong(self.line, "a comment has no end"))?;
                self.take(end + 2);
            } else {
                return Ok(());
            }
        }
    }

    /// Takes so many bytes, which must end between characters.
    fn take(&mut self, bytes: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at_checked(bytes).unwrap_or((self.rest, ""));
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

#[cfg(test)]
mod tests;

//! The keys that speak to Phantom and not to the app: `~` after Return, as ssh has it.

/// What a piece of typing means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// For the app.
    Bytes(Vec<u8>),
    /// Leave the app running and give the terminal back.
    Detach,
    /// Show what the keys are.
    Help,
}

/// Finds the keys in what is typed.
#[derive(Debug)]
pub struct Keys {
    at_line_start: bool,
    tilde: bool,
}

impl Default for Keys {
    fn default() -> Self {
        Self { at_line_start: true, tilde: false }
    }
}

impl Keys {
    /// Splits what was typed.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Typed> {
        let mut parts = Vec::new();
        let mut plain = Vec::new();
        for &byte in bytes {
            if std::mem::take(&mut self.tilde) {
                let special = match byte {
                    b'd' | b'.' => Some(Typed::Detach),
                    b'?' => Some(Typed::Help),
                    b'~' => None,
                    _ => {
                        plain.push(b'~');
                        None
                    }
                };
                if let Some(special) = special {
                    if !plain.is_empty() {
                        parts.push(Typed::Bytes(std::mem::take(&mut plain)));
                    }
                    parts.push(special);
                    self.at_line_start = true;
                    continue;
                }
            } else if byte == b'~' && self.at_line_start {
                self.tilde = true;
                continue;
            }
            self.at_line_start = matches!(byte, b'\r' | b'\n');
            plain.push(byte);
        }
        if !plain.is_empty() {
            parts.push(Typed::Bytes(plain));
        }
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn feed(text: &str) -> Vec<Typed> {
        let mut keys = Keys::default();
        text.bytes().flat_map(|byte| keys.feed(&[byte])).collect()
    }

    fn bytes(parts: &[Typed]) -> String {
        let of = |part: &Typed| match part {
            Typed::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            other => format!("<{other:?}>"),
        };
        parts.iter().map(of).collect()
    }

    #[test]
    fn a_tilde_is_special_only_after_return() {
        assert_eq!(bytes(&feed("a~d\r~d")), "a~d\r<Detach>");
        assert_eq!(bytes(&feed("~?x")), "<Help>x");
        assert_eq!(bytes(&feed("~~d")), "~d");
        assert_eq!(bytes(&feed("~x")), "~x");
        assert_eq!(bytes(&feed("\r~/notes")), "\r~/notes");
    }
}

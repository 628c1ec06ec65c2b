//! The names by which regions are found: `grid://campus.example.org`.
//!
//! What holds: a [`GridUri`] is a domain name in A-labels and lower case (RFC 5891), of at least two
//! labels, and short enough for the name of its entry in the DNS, `_phantom._udp.` before it, to
//! be a domain name too. Two that mean the same region are equal.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use idna::uts46::{AsciiDenyList, DnsLength, Hyphens, Uts46};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What stands before the name.
pub const SCHEME: &str = "grid://";
/// What stands before a region's name in the DNS: service and transport (RFC 2782, RFC 7553).
pub const SERVICE: &str = "_phantom._udp.";
/// No domain name is longer, in characters and without the dot at its end (RFC 1035, 2.3.4).
pub const MAX_NAME: usize = 253;
/// No part of a domain name between two dots is longer (RFC 1035, 2.3.4).
pub const MAX_LABEL: usize = 63;
/// No region's name is longer: [`SERVICE`] must go before it.
pub const MAX_REGION: usize = MAX_NAME - SERVICE.len();
/// No longer text is looked at; an IDN has more bytes than its A-labels have characters.
const MAX_TEXT: usize = 1024;

/// A region's name, as a URI.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct GridUri(String);

/// Why a text is not the URI of a region.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UriError {
    /// Another scheme, or none.
    #[error(
        "`{text}` does not begin with grid://: write grid://NAME, as grid://campus.example.org"
    )]
    Scheme {
        /// What was given, shortened.
        text: String,
    },
    /// Longer than any name can be.
    #[error("the URI has {bytes} bytes, no name has more than {MAX_TEXT}: write grid://NAME")]
    TooMuch {
        /// How long it is.
        bytes: usize,
    },
    /// Something besides the name.
    #[error("grid://{name} has {what} besides the name: leave out `{found}`")]
    Besides {
        /// All after the scheme, shortened.
        name: String,
        /// A port, a path, user information, a query or a fragment.
        what: &'static str,
        /// The character with which it begins or ends.
        found: char,
    },
    /// An address.
    #[error("grid://{text} names an address, not a region: write the region's domain name")]
    Address {
        /// What was given.
        text: String,
    },
    /// No dot.
    #[error("grid://{name} has one label only: write the whole domain name, as {name}.example.org")]
    OneLabel {
        /// The name.
        name: String,
    },
    /// A label that is empty or too long.
    #[error(
        "grid://{name}: the label `{label}` has {length} characters as the DNS writes it: it takes \
         1 to {MAX_LABEL}"
    )]
    Label {
        /// The name, shortened.
        name: String,
        /// The label, shortened.
        label: String,
        /// Its length in characters.
        length: usize,
    },
    /// Too long for the DNS with what goes before it.
    #[error(
        "grid://{name}: the name has {length} characters as the DNS writes it: it takes \
         {MAX_REGION}, as `{SERVICE}` goes before it"
    )]
    TooLong {
        /// The name, shortened.
        name: String,
        /// Its length in characters.
        length: usize,
    },
    /// Characters that no domain name has.
    #[error(
        "grid://{name} is no domain name (RFC 5891): use letters, digits and inner hyphens, with \
         dots between the labels"
    )]
    Characters {
        /// The name, shortened.
        name: String,
    },
}

impl GridUri {
    /// The URI of the region with this domain name.
    ///
    /// # Errors
    /// When it is none.
    pub fn from_name(name: &str) -> Result<Self, UriError> {
        if name.len() > MAX_TEXT {
            return Err(UriError::TooMuch { bytes: name.len() });
        }
        let besides =
            [('@', "user information"), ('/', "a path"), ('?', "a query"), ('#', "a fragment")];
        if name.parse::<IpAddr>().is_ok() || name.starts_with('[') {
            return Err(UriError::Address { text: short(name) });
        }
        for (found, what) in besides.into_iter().chain([(':', "a port")]) {
            if name.contains(found) {
                return Err(UriError::Besides { name: short(name), what, found });
            }
        }
        let ascii = to_ascii(name)?;
        if ascii.len() > MAX_REGION {
            return Err(UriError::TooLong { name: short(name), length: ascii.len() });
        }
        let Some((_, last)) = ascii.rsplit_once('.') else {
            return Err(UriError::OneLabel { name: short(name) });
        };
        // What a resolver of addresses would take for one (RFC 3696, 2).
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(UriError::Address { text: short(name) });
        }
        Ok(Self(ascii))
    }

    /// The domain name, in A-labels and lower case, without a dot at its end.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// The domain name at which the region's entry lies, without a dot at its end.
    pub fn entry_name(&self) -> String {
        format!("{SERVICE}{}", self.0)
    }
}

impl FromStr for GridUri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        if text.len() > MAX_TEXT {
            return Err(UriError::TooMuch { bytes: text.len() });
        }
        // A scheme knows no case (RFC 3986, 3.1).
        match text.split_at_checked(SCHEME.len()) {
            Some((scheme, name)) if scheme.eq_ignore_ascii_case(SCHEME) => Self::from_name(name),
            _ => Err(UriError::Scheme { text: short(text) }),
        }
    }
}

impl fmt::Display for GridUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", self.0)
    }
}

impl From<GridUri> for String {
    fn from(uri: GridUri) -> Self {
        uri.to_string()
    }
}

impl TryFrom<String> for GridUri {
    type Error = UriError;

    fn try_from(text: String) -> Result<Self, UriError> {
        text.parse()
    }
}

/// A domain name in A-labels and lower case, of labels that hosts may have; one dot at the end is
/// taken off.
fn to_ascii(name: &str) -> Result<String, UriError> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let wrong = || UriError::Characters { name: short(name) };
    // Lengths are looked at here, to say which label is meant.
    let ascii = Uts46::new()
        .to_ascii(name.as_bytes(), AsciiDenyList::STD3, Hyphens::Check, DnsLength::Ignore)
        .map_err(|_| wrong())?;
    for label in ascii.split('.') {
        if label.is_empty() || label.len() > MAX_LABEL {
            let (name, length) = (short(name), label.len());
            return Err(UriError::Label { name, label: short(label), length });
        }
    }
    Ok(ascii.into_owned())
}

/// Whether this is the name of a host as it stands in the DNS: A-labels, lower case, no dot at its
/// end, and nothing that could be taken for an address.
pub(crate) fn is_host(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or_default();
    name.len() <= MAX_NAME
        && !last.bytes().all(|byte| byte.is_ascii_digit())
        && to_ascii(name).is_ok_and(|ascii| ascii == name)
}

/// The beginning of a text, for an error message on one line.
pub(crate) fn short(text: &str) -> String {
    const LONGEST: usize = 60;
    let mut kept: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn uri(text: &str) -> Result<String, UriError> {
        text.parse::<GridUri>().map(|uri| uri.to_string())
    }

    #[test]
    fn names_are_brought_to_one_form() {
        for (text, expected) in [
            ("grid://campus.example.org", "grid://campus.example.org"),
            ("GRID://Campus.Example.ORG.", "grid://campus.example.org"),
            ("grid://bücher.example", "grid://xn--bcher-kva.example"),
            ("grid://BÜCHER。example", "grid://xn--bcher-kva.example"),
            ("grid://xn--bcher-kva.example", "grid://xn--bcher-kva.example"),
            ("grid://1.a2", "grid://1.a2"),
        ] {
            assert_eq!(uri(text).unwrap(), expected, "{text}");
        }
        let known: GridUri = "grid://campus.example.org".parse().unwrap();
        assert_eq!(known.entry_name(), "_phantom._udp.campus.example.org");
    }

    #[test]
    fn what_is_wrong_is_named_with_the_remedy() {
        for (text, expected) in [
            ("campus.example.org", "does not begin with grid://"),
            ("http://campus.example.org", "does not begin with grid://"),
            ("grid:/campus.example.org", "does not begin with grid://"),
            ("grid://campus.example.org:80", "a port besides the name: leave out `:`"),
            ("grid://campus.example.org/", "a path besides the name: leave out `/`"),
            ("grid://u@campus.example.org", "user information besides the name: leave out `@`"),
            ("grid://campus.example.org?a", "a query besides the name"),
            ("grid://campus.example.org#a", "a fragment besides the name"),
            ("grid://192.0.2.1", "an address, not a region"),
            ("grid://[2001:db8::1]", "an address, not a region"),
            ("grid://2001:db8::1", "an address, not a region"),
            ("grid://192.0.2", "an address, not a region"),
            ("grid://campus", "one label only: write the whole domain name, as campus.example.org"),
            ("grid://a..b", "the label `` has 0 characters"),
            ("grid://", "the label `` has 0 characters"),
            ("grid://-a.example", "is no domain name"),
            ("grid://a_b.example", "is no domain name"),
            ("grid://a b.example", "is no domain name"),
            ("grid://xn--a.example", "is no domain name"),
            ("grid://a\n.example", "is no domain name"),
        ] {
            let error = uri(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    /// A name of so many characters, in labels of at most 63.
    fn name_of(length: usize) -> String {
        let mut name = String::new();
        while name.len() < length {
            let rest = length - name.len();
            let label = if rest == MAX_LABEL + 1 { MAX_LABEL - 1 } else { rest.min(MAX_LABEL) };
            name.push_str(&"a".repeat(label));
            if name.len() < length {
                name.push('.');
            }
        }
        name
    }

    #[test]
    fn the_longest_names() {
        let longest = name_of(MAX_REGION);
        let known = GridUri::from_name(&longest).unwrap();
        assert_eq!(known.entry_name().len(), MAX_NAME);
        for length in [MAX_REGION + 1, MAX_NAME, MAX_NAME + 1] {
            let error = GridUri::from_name(&name_of(length)).unwrap_err();
            assert!(matches!(error, UriError::TooLong { length: found, .. } if found == length));
        }
        let label = "b".repeat(MAX_LABEL);
        assert!(GridUri::from_name(&format!("{label}.example")).is_ok());
        let error = GridUri::from_name(&format!("{label}b.example")).unwrap_err();
        assert!(matches!(error, UriError::Label { length: 64, .. }), "{error}");
        // 60 characters that are more as A-label.
        let error = GridUri::from_name(&format!("{}.example", "ü".repeat(60))).unwrap_err();
        assert!(matches!(error, UriError::Label { length: 65.., .. }), "{error}");
        assert!(matches!(uri(&"a".repeat(2000)), Err(UriError::TooMuch { bytes: 2000 })));
    }

    #[test]
    fn a_stored_uri_is_checked_when_it_is_read() {
        let known: GridUri = "grid://campus.example.org".parse().unwrap();
        let text = serde_json::to_string(&known).unwrap();
        assert_eq!(serde_json::from_str::<GridUri>(&text).unwrap(), known);
        assert!(serde_json::from_str::<GridUri>("\"grid://a b\"").is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_parsed_prints_and_parses_to_itself(text in "(grid://)?\\PC{0,80}") {
            if let Ok(known) = text.parse::<GridUri>() {
                prop_assert_eq!(&known.to_string().parse::<GridUri>().unwrap(), &known);
                prop_assert!(known.name().is_ascii() && known.entry_name().len() <= MAX_NAME);
                prop_assert!(is_host(known.name()));
            }
        }

        #[test]
        fn names_of_hosts_are_parsed(name in "[a-z][a-z0-9]{0,20}(\\.[a-z][a-z0-9]{0,20}){1,4}") {
            let known = GridUri::from_name(&name).unwrap();
            prop_assert_eq!(known.name(), name);
        }

        #[test]
        fn any_bytes_are_answered(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = String::from_utf8_lossy(&bytes);
            let _ = text.parse::<GridUri>();
            let _ = GridUri::from_name(&text);
        }
    }
}

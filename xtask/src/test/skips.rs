//! The skips that are allowed: `tests/skips.toml`.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Skips {
    #[serde(default)]
    skip: Vec<Allowed>,
}

/// One kind of skip that is no failure.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Allowed {
    /// Pattern for `package/target::test`; `*` stands for anything.
    test: String,
    /// Pattern for the reason the test gives.
    reason: String,
    /// Why that is no failure, for the reader of the file and of the summary.
    why: String,
}

impl Skips {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<Skips> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        Skips::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    fn parse(text: &str) -> Result<Skips> {
        let skips: Skips = toml::from_str(text)?;
        for one in &skips.skip {
            if one.why.trim().is_empty() {
                bail!("the skip of {:?} must say why", one.test);
            }
            if one.reason.trim_matches('*').is_empty() {
                bail!("the skip of {:?} must name its reason", one.test);
            }
        }
        Ok(skips)
    }

    /// Why this skip is allowed, or `None` when it is not.
    pub fn why(&self, test: &str, reason: &str) -> Option<&str> {
        self.skip
            .iter()
            .find(|one| matches(&one.test, test) && matches(&one.reason, reason))
            .map(|one| one.why.as_str())
    }
}

/// Whether `text` fits `pattern`, in which `*` stands for anything, also nothing.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "abc", true),
            ("*c", "abc", true),
            ("a*c", "ac", true),
            ("a*b*c", "a-b-b-c", true),
            ("ab*ba", "aba", false),
            ("a*b*c", "a-c-b", false),
            ("*no KVM*", "this machine has no KVM here", true),
            ("é*ü", "éaü", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn only_what_is_listed_is_allowed() {
        let skips = Skips::parse(
            "[[skip]]\ntest = \"phantom/*\"\nreason = \"no KVM*\"\nwhy = \"emulated here\"\n",
        )
        .unwrap();
        assert_eq!(skips.why("phantom/lib::kvm", "no KVM: emulated"), Some("emulated here"));
        assert_eq!(skips.why("phantom/lib::kvm", "no FUSE"), None);
        assert_eq!(skips.why("phantom-fs/lib::kvm", "no KVM"), None);
        assert!(Skips::parse("").unwrap().skip.is_empty());
    }

    #[test]
    fn a_skip_for_no_reason_is_refused() {
        let blanket = "[[skip]]\ntest = \"*\"\nreason = \"*\"\nwhy = \"x\"\n";
        assert!(Skips::parse(blanket).is_err());
        let silent = "[[skip]]\ntest = \"*\"\nreason = \"no KVM\"\nwhy = \"\"\n";
        assert!(Skips::parse(silent).is_err());
    }

    #[test]
    fn the_file_of_the_tree_is_good() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/skips.toml");
        Skips::load(&path).unwrap();
    }
}

//! Version numbers as programs print them.

use std::cmp::Ordering;

/// Whether `found` is `minimum` or newer. Compares the dotted numbers at the beginning; a missing
/// number counts as 0, and what is no version at all is older than everything.
pub fn at_least(found: &str, minimum: &str) -> bool {
    compare(found, minimum) != Ordering::Less
}

/// Orders two versions by their leading dotted numbers.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (numbers(a), numbers(b));
    let length = a.len().max(b.len());
    // Keeps "no version" (empty) below "0".
    if !a.is_empty() {
        a.resize(length, 0);
    }
    if !b.is_empty() {
        b.resize(length, 0);
    }
    a.cmp(&b)
}

fn numbers(version: &str) -> Vec<u64> {
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    version[..end].split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_as_people_do() {
        assert!(at_least("4.2", "4.2"));
        assert!(at_least("4.2.1", "4.2"));
        assert!(at_least("4.10", "4.2"));
        assert!(at_least("5", "4.2"));
        assert!(!at_least("4.1.1", "4.2"));
        assert!(!at_least("3.17", "4.2"));
        assert!(at_least("1.95.0-nightly", "1.91"));
        assert!(at_least("4.2", "4.2.0"));
    }

    #[test]
    fn what_is_no_version_is_old() {
        assert!(!at_least("", "0"));
        assert!(!at_least("unknown", "4.2"));
        assert!(!at_least("99999999999999999999999", "4.2"));
    }
}

/// Whether `name` fits a pattern in which `*` stands for any characters. Takes time in proportion
/// to the product of the lengths at most.
pub fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let Some(tail) = parts.pop() else { return false };
    for part in parts {
        match left.find(part) {
            Some(at) => left = &left[at + part.len()..],
            None => return false,
        }
    }
    left.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, name, expected) in [
            ("*", "any", true),
            ("lab-*", "lab-1", true),
            ("lab-*", "lap-1", false),
            ("*-desk", "my-desk", true),
            ("a*b*c", "a-b-c", true),
            ("a*a", "a", false),
            ("same", "same", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }
}

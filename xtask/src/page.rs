//! Pages of `docs/` that keep figures: in the section of each benchmark or soak a block of text
//! that is written by the command; what people write around it stays.

use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::say;
use crate::workspace::Workspace;

/// What a block begins and ends with.
const OPEN: &str = "```text\n";
const CLOSE: &str = "```\n";

/// Puts figures into the section with this heading; says by which command, today, they came.
pub fn keep(
    workspace: &Workspace,
    page: &str,
    heading: &str,
    command: &str,
    figures: &str,
) -> Result<()> {
    let path = workspace.root.join(page);
    let text =
        std::fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
    let block = format!("{}, {command}\n\n{}\n", day(SystemTime::now()), figures.trim_end());
    write(&path, &with_block(&text, heading, &block))?;
    say::ok(format!("the figures are kept in {page}"));
    Ok(())
}

fn write(path: &Path, text: &str) -> Result<()> {
    std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

/// The page with the first block of a section replaced; a section without one gets it at its end,
/// a page without the section gets that at its own.
fn with_block(page: &str, heading: &str, block: &str) -> String {
    let block = format!("{OPEN}{block}{CLOSE}");
    let head = format!("## {heading}");
    let begins = |line: &str| {
        line.strip_prefix(&head).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
    };
    let lines: Vec<&str> = page.split_inclusive('\n').collect();
    let Some(start) = lines.iter().position(|line| begins(line)) else {
        return format!("{}\n\n{head}\n\n{block}", page.trim_end());
    };
    let after = |from: usize, fits: &dyn Fn(&str) -> bool| {
        lines[from..].iter().position(|line| fits(line)).map(|at| from + at)
    };
    let end = after(start + 1, &|line| line.starts_with("## ")).unwrap_or(lines.len());
    let text = |from: usize, to: usize| lines[from..to].concat();
    match after(start, &|line| line == OPEN).filter(|open| *open < end) {
        Some(open) => {
            let close = after(open, &|line| line.trim_end() == CLOSE.trim_end()).unwrap_or(end);
            let rest = text((close + 1).min(lines.len()), lines.len());
            format!("{}{block}{rest}", text(0, open))
        }
        None if end == lines.len() => format!("{}\n\n{block}", page.trim_end()),
        None => {
            format!("{}\n\n{block}\n{}", text(0, end).trim_end(), text(end, lines.len()))
        }
    }
}

/// The date (UTC) of a moment, as `2026-11-21`.
fn day(now: SystemTime) -> String {
    let days =
        now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() / 86_400);
    let (mut year, mut left) = (1970, days);
    let leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn days() {
        let at = |seconds| day(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01");
        assert_eq!(at(951_782_400), "2000-02-29");
        assert_eq!(at(1_795_219_200), "2026-11-21");
        assert_eq!(at(1_798_675_200), "2026-12-31");
    }

    #[test]
    fn a_block_is_replaced_and_words_stay() {
        let page = "# Page\n\n## `bench a`: what\n\nWords.\n\n```text\nold\n\nold\n```\n\n\
                    More.\n\n## `bench ab`\n\nNo figures yet.\n";
        let page = with_block(page, "`bench a`", "new\n");
        let page = with_block(&page, "`bench ab`", "1\n");
        let page = with_block(&page, "`bench c`", "2\n");
        let page = with_block(&page, "`bench ab`", "3\n");
        assert_eq!(
            page,
            "# Page\n\n## `bench a`: what\n\nWords.\n\n```text\nnew\n```\n\nMore.\n\n\
             ## `bench ab`\n\nNo figures yet.\n\n```text\n3\n```\n\n## `bench c`\n\n\
             ```text\n2\n```\n"
        );
    }

    #[test]
    fn a_block_goes_before_the_next_section() {
        let page = with_block("## a\n\nWords.\n\n## b\n", "a", "1\n");
        assert_eq!(page, "## a\n\nWords.\n\n```text\n1\n```\n\n## b\n");
        assert_eq!(with_block(&page, "a", "1\n"), page);
    }
}

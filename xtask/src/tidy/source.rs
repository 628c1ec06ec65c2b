//! Rules for source files.

use std::collections::BTreeSet;

use super::Problem;
use super::tree::File;

/// Lines from which a file is said to be long.
const LONG: usize = 400;
/// Lines from which a file is too long.
const TOO_LONG: usize = 600;
/// How far above an `unsafe` its SAFETY comment may begin.
const SAFETY_DISTANCE: usize = 8;

/// Checks every file.
pub fn check(files: &[File]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for file in files {
        text(file, &mut problems);
        if file.path.ends_with(".rs") {
            rust(file, &mut problems);
        }
    }
    problems.extend(missing_docs(files));
    problems
}

/// Rules for all text that people write.
fn text(file: &File, problems: &mut Vec<Problem>) {
    let written = ["rs", "md", "toml", "c", "h", "sh"];
    let ours = file.path.rsplit_once('.').is_some_and(|(_, kind)| written.contains(&kind));
    if !ours || file.path.ends_with("vmlinux.h") {
        return;
    }
    for (index, line) in file.text.lines().enumerate() {
        let place = || format!("{}:{}", file.path, index + 1);
        if line.ends_with([' ', '\t']) {
            problems.push(Problem::new(place(), "blank at the end of the line"));
        }
        for mark in marks() {
            if has_word(line, &mark) {
                problems.push(Problem::new(place(), format!("{mark}: do it, or write an issue")));
            }
        }
        for folder in private_folders() {
            if line.contains(&folder) {
                let what = format!("{folder}… is somebody's own machine");
                problems.push(Problem::new(place(), what));
            }
        }
    }
    if !file.text.is_empty() && !file.text.ends_with('\n') {
        problems.push(Problem::new(&file.path, "no newline at the end"));
    }
}

/// Marks of unfinished work; put together here so that this file has none.
fn marks() -> [String; 3] {
    ["TO", "FIX", "XX"].map(|head| {
        let tail = match head {
            "TO" => "DO",
            "FIX" => "ME",
            _ => "X",
        };
        format!("{head}{tail}")
    })
}

/// Folders that only exist on the machine something was written on; put together for the same
/// reason.
fn private_folders() -> [String; 3] {
    ["work/", "root/.", "tmp/t-"].map(|folder| format!("/{folder}"))
}

fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let letter = |c: char| c.is_alphanumeric() || c == '_';
        !line[..at].ends_with(letter) && !line[at + word.len()..].starts_with(letter)
    })
}

/// Rules for Rust.
fn rust(file: &File, problems: &mut Vec<Problem>) {
    let lines: Vec<&str> = file.text.lines().collect();
    if lines.len() > TOO_LONG {
        let what = format!("{} lines, more than {TOO_LONG}: split it", lines.len());
        problems.push(Problem::new(&file.path, what));
    } else if lines.len() > LONG {
        let what = format!("{} lines, more than {LONG}", lines.len());
        problems.push(Problem::warning(&file.path, what));
    }
    for (index, line) in lines.iter().enumerate() {
        if !is_unsafe(line) {
            continue;
        }
        let place = format!("{}:{}", file.path, index + 1);
        if !may_be_unsafe(&file.path) {
            let what = "`unsafe` outside os.rs, os/ and the capsule's init";
            problems.push(Problem::new(place.clone(), what));
        }
        // An attribute such as `#[unsafe(no_mangle)]` has nothing to uphold at its own place.
        if line.trim_start().starts_with("#[unsafe(") {
            continue;
        }
        let above = &lines[index.saturating_sub(SAFETY_DISTANCE)..=index];
        let explained = |line: &&str| line.contains("SAFETY:") || line.contains("# Safety");
        if !above.iter().any(explained) {
            problems.push(Problem::new(place, "`unsafe` without a SAFETY comment"));
        }
    }
}

/// Whether `unsafe` stands in this line as a keyword.
fn is_unsafe(line: &str) -> bool {
    has_word(&code_of(line), "unsafe")
}

/// The line without what is in strings and comments. A string that spans lines is not seen as
/// one, which the sources here do not need.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut rest = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if in_string => _ = rest.next(),
            '"' => in_string = !in_string,
            '/' if !in_string && rest.peek() == Some(&'/') => break,
            c if !in_string => code.push(c),
            _ => {}
        }
    }
    code
}

/// The only places for `unsafe`: system calls, and the init that runs without a standard library.
fn may_be_unsafe(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    parts.contains(&"os.rs") || parts.contains(&"os") || path.starts_with("capsule/src/init/")
}

/// Every library and program begins with its documentation.
fn missing_docs(files: &[File]) -> Vec<Problem> {
    let roots: BTreeSet<&str> = ["lib.rs", "main.rs"].into();
    files
        .iter()
        .filter(|file| {
            let parts: Vec<&str> = file.path.split('/').collect();
            matches!(parts[..], [_, "src", name] if roots.contains(name))
                || matches!(parts[..], [_, "src", "bin", name] if name.ends_with(".rs"))
        })
        .filter(|file| !file.text.starts_with("//!"))
        .map(|file| Problem::new(&file.path, "must begin with `//!`: what it does, what it leaves"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        check(&[file]).into_iter().map(|problem| problem.what).collect()
    }

    #[test]
    fn unsafe_has_its_places_and_its_reasons() {
        let good = "// SAFETY: the pointer is ours.\nunsafe { f() };\n";
        assert!(found("a/src/os.rs", good).is_empty());
        assert!(found("a/src/os/tty.rs", good).is_empty());
        assert!(found("capsule/src/init/main.rs", good).is_empty());
        assert!(found("a/src/os.rs", "#[unsafe(no_mangle)]\n").is_empty());
        assert_eq!(found("a/src/driver.rs", good).len(), 1);
        assert_eq!(found("a/src/os.rs", "unsafe { f() };\n").len(), 1);
    }

    #[test]
    fn unsafe_in_words_is_no_unsafe() {
        for line in
            ["// unsafe", "let a = \"unsafe\";", "unsafe_op_in_unsafe_fn", "let unsafely = 1;"]
        {
            assert!(!is_unsafe(line), "{line}");
        }
        assert!(is_unsafe("    unsafe impl Send for A {}"));
        assert!(is_unsafe("pub unsafe fn f() { // why"));
    }

    #[test]
    fn marks_and_blanks_are_found() {
        let [mark, ..] = marks();
        assert_eq!(found("a.md", &format!("{mark}: later\n")).len(), 1);
        assert!(found("a.md", &format!("{mark}S are gone\n")).is_empty());
        assert_eq!(found("a.md", "end \n").len(), 1);
        assert_eq!(found("a.md", "no newline").len(), 1);
        assert!(found("a.png", "end \n").is_empty());
    }

    #[test]
    fn long_files() {
        assert_eq!(check(&[file_of(401)]).iter().filter(|problem| problem.fails).count(), 0);
        assert_eq!(check(&[file_of(401)]).len(), 1);
        assert_eq!(check(&[file_of(601)]).iter().filter(|problem| problem.fails).count(), 1);
    }

    fn file_of(lines: usize) -> File {
        File { path: "a/src/b.rs".to_owned(), text: "//\n".repeat(lines) }
    }

    #[test]
    fn crates_begin_with_their_contract() {
        assert_eq!(found("a/src/lib.rs", "mod b;\n").len(), 1);
        assert_eq!(found("a/src/bin/c.rs", "fn main() {}\n").len(), 1);
        assert!(found("a/src/lib.rs", "//! What it does.\n").is_empty());
        assert!(found("a/src/b/main.rs", "fn main() {}\n").is_empty());
    }
}

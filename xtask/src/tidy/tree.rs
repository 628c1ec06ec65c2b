//! The files of the tree, and what is asked of documents and manifests.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Problem;
use crate::command::Cmd;
use crate::workspace::Package;

/// Licence of every package of the workspace.
const LICENCE: &str = "Apache-2.0";

/// A text file of the tree.
pub struct File {
    /// Path relative to the root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// All text files that git knows or would add; without git, all there are.
pub fn files(root: &Path) -> Result<Vec<File>> {
    let listed = Cmd::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .dir(root)
        .stdout();
    let paths = match listed {
        Ok(listed) => listed.split('\0').map(str::to_owned).collect(),
        Err(_) => walk(root)?,
    };
    let mut files = Vec::new();
    for path in paths {
        // Files that are gone and files that are no text are nobody's business here.
        let bytes = std::fs::read(root.join(&path)).unwrap_or_default();
        match String::from_utf8(bytes) {
            Ok(text) if !text.is_empty() => files.push(File { path, text }),
            _ => {}
        }
    }
    Ok(files)
}

/// Every file below `root`, but for what is built and what is hidden.
fn walk(root: &Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        let at = root.join(&folder);
        let entries =
            std::fs::read_dir(&at).with_context(|| format!("listing {}", at.display()))?;
        for entry in entries.flatten() {
            let name = entry.file_name();
            let path = folder.join(&name);
            let kind =
                entry.file_type().with_context(|| format!("asking about {}", path.display()))?;
            if kind.is_file() {
                found.extend(path.to_str().map(str::to_owned));
            } else if kind.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.')
            {
                folders.push(path);
            }
        }
    }
    Ok(found)
}

/// README, ARCHITECTURE and CHANGELOG are there, and the second names every package's folder.
pub fn check_documents(root: &Path, packages: &[Package]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE"] {
        if !root.join(name).is_file() {
            problems.push(Problem::new(name, "missing"));
        }
    }
    let architecture = std::fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap_or_default();
    for package in packages {
        let folder = package.dir().strip_prefix(root).unwrap_or(package.dir());
        if !architecture.contains(&format!("`{}", folder.display())) {
            let what = format!("does not name `{}`", folder.display());
            problems.push(Problem::new("ARCHITECTURE.md", what));
        }
    }
    problems
}

/// Every package names the licence.
pub fn check_licences(packages: &[Package]) -> Vec<Problem> {
    packages
        .iter()
        .filter(|package| package.license.as_deref() != Some(LICENCE))
        .map(|package| {
            Problem::new(
                package.manifest_path.display().to_string(),
                "needs `license.workspace = true`",
            )
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_git_the_same_sources_are_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        assert!(walk(root).unwrap().contains(&"src/tidy/tree.rs".to_owned()));
    }
}

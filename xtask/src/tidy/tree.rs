//! The files of the tree, and what is asked of documents and manifests.

use std::path::Path;

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

/// All text files that git knows or would add.
pub fn files(root: &Path) -> Result<Vec<File>> {
    let listed = Cmd::new("git")
        .args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"])
        .arg("--exclude-standard")
        .dir(root)
        .stdout()
        .context("asking git for the files of the tree")?;
    let mut files = Vec::new();
    for path in listed.split('\0').filter(|path| !path.is_empty()) {
        // Files that are gone and files that are no text are nobody's business here.
        if let Some(text) =
            std::fs::read(root.join(path)).ok().and_then(|bytes| String::from_utf8(bytes).ok())
        {
            files.push(File { path: path.to_owned(), text });
        }
    }
    Ok(files)
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

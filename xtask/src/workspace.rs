//! The tree this program was built from, as cargo sees it.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::command::Cmd;

/// Where things are.
pub struct Workspace {
    /// The folder of the root `Cargo.toml`.
    pub root: PathBuf,
    /// Where cargo writes.
    pub target: PathBuf,
    /// Where cargo keeps what it only needs on the way.
    pub build: PathBuf,
    /// The workspace's own packages.
    pub packages: Vec<Package>,
}

/// A package of the workspace.
#[derive(Debug, Clone, Deserialize)]
pub struct Package {
    /// Its name in its `Cargo.toml`.
    pub name: String,
    /// Where its `Cargo.toml` is.
    pub manifest_path: PathBuf,
    /// What it needs.
    pub dependencies: Vec<Dependency>,
    /// The licence field.
    pub license: Option<String>,
}

/// An entry of a package's dependency tables.
#[derive(Debug, Clone, Deserialize)]
pub struct Dependency {
    /// The other package's name.
    pub name: String,
    /// `None` for a normal one, else `dev` or `build`.
    pub kind: Option<String>,
    /// Set for packages of the workspace.
    pub path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_root: PathBuf,
    target_directory: PathBuf,
    /// Cargo before 1.91 does not say; set-up then asks for a newer one.
    build_directory: Option<PathBuf>,
}

impl Package {
    /// The folder of its `Cargo.toml`.
    pub fn dir(&self) -> &Path {
        self.manifest_path.parent().unwrap_or(Path::new("."))
    }
}

impl Workspace {
    /// Asks cargo about the tree this program was built from.
    pub fn find() -> Result<Workspace> {
        let here = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let json = Cmd::new(cargo())
            .args(["metadata", "--format-version=1", "--no-deps"])
            .dir(&here)
            .stdout()
            .context("asking cargo about the workspace")?;
        let metadata: Metadata = serde_json::from_str(&json).context("reading cargo metadata")?;
        Ok(Workspace {
            root: metadata.workspace_root,
            build: metadata.build_directory.unwrap_or_else(|| metadata.target_directory.clone()),
            target: metadata.target_directory,
            packages: metadata.packages,
        })
    }

    /// A folder for this program's own logs and intermediate files, made when missing.
    pub fn scratch(&self) -> Result<PathBuf> {
        let dir = self.target.join("xtask");
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The file a step's output goes to.
    pub fn log(&self, step: &str) -> Result<PathBuf> {
        let dir = self.scratch()?.join("logs");
        std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir.join(format!("{step}.log")))
    }

    /// A cargo command in this tree.
    pub fn cargo(&self, arguments: &[&str]) -> Cmd {
        Cmd::new(cargo()).args(arguments).dir(&self.root)
    }
}

/// The cargo that runs us, so that a chosen toolchain stays chosen.
fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or_else(|| PathBuf::from("cargo"), PathBuf::from)
}

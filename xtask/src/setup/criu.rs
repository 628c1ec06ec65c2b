//! CRIU: the system's own when it is good enough, else one built from the distribution's source.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::recipe::Recipe;
use super::{host, source, version};
use crate::command::Cmd;
use crate::workspace::Workspace;
use crate::{root, say};

/// Where a built CRIU goes: `criu` there is a link to the folder of the current one.
const LIBRARY: &str = "/usr/local/lib/phantom";
/// The file beside an installed CRIU that holds the digest of the recipe it was built with.
const MARK: &str = "recipe";

/// What there is and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// The distribution's own is good enough.
    System {
        /// Where it is.
        path: PathBuf,
        /// What it says of itself.
        version: String,
    },
    /// Built earlier from this recipe.
    Built(PathBuf),
    /// To be built, because of this.
    Missing(String),
}

/// The folder a CRIU of this recipe is installed in.
fn folder(recipe: &Recipe, recipe_digest: &str) -> PathBuf {
    Path::new(LIBRARY).join(format!("criu-{}-{recipe_digest}", recipe.version))
}

/// Where Phantom looks for a built CRIU.
fn installed() -> PathBuf {
    Path::new(LIBRARY).join("criu/criu")
}

/// Finds out what there is; changes nothing.
pub fn state(recipe: &Recipe, recipe_digest: &str) -> State {
    let path = installed();
    let mark = std::fs::read_to_string(path.with_file_name(MARK)).unwrap_or_default();
    if mark.trim() == recipe_digest && version_of(&path).is_some() {
        return State::Built(path);
    }
    let Some((path, found)) = system() else {
        return State::Missing("none on this system".to_owned());
    };
    if !version::at_least(&found, &recipe.minimum) {
        return State::Missing(format!("{} is only {found}", path.display()));
    }
    if !has_feature(&path, &recipe.feature) {
        return State::Missing(format!("{} {found} lacks {}", path.display(), recipe.feature));
    }
    State::System { path, version: found }
}

/// The distribution's own CRIU and its version.
fn system() -> Option<(PathBuf, String)> {
    root::which("criu").find_map(|path| version_of(&path).map(|version| (path, version)))
}

/// What a CRIU says its version is.
pub fn version_of(criu: &Path) -> Option<String> {
    let printed = Cmd::new(criu).arg("--version").stdout().ok()?;
    parse_version(&printed)
}

fn parse_version(printed: &str) -> Option<String> {
    let line = printed.lines().find_map(|line| line.strip_prefix("Version:"))?;
    Some(line.trim().to_owned())
}

fn has_feature(criu: &Path, feature: &str) -> bool {
    Cmd::new(criu).args(["check", "--feature", feature]).rooted().succeeds()
}

/// One line about what will be done.
pub fn intention(recipe: &Recipe, recipe_digest: &str) -> String {
    format!(
        "builds CRIU {} from the Debian archive's source, installs it as {} and makes {LIBRARY}/criu \
         point there",
        recipe.version,
        folder(recipe, recipe_digest).display()
    )
}

/// Gets the source, checks, patches and builds it, and installs the result.
pub fn build(workspace: &Workspace, recipe: &Recipe, recipe_digest: &str) -> Result<PathBuf> {
    let dir = workspace.scratch()?.join("criu-build");
    // What an interrupted build left is not trusted.
    if dir.exists() {
        std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    }
    std::fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
    host::room(&dir, 300)?;

    let log = workspace.log("criu")?;
    let source = source::get(recipe, &dir, &log)?;
    let tree = dir.join(recipe.source_dir_of(&source.version));
    Cmd::new("tar")
        .arg("xf")
        .arg(&source.archive)
        .arg("-C")
        .arg(&dir)
        .quiet()
        .context("unpacking CRIU")?;
    patch(workspace, recipe, &source.version, &tree)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let took = Cmd::new("make")
        .arg(format!("-j{cores}"))
        .args(&recipe.make_args)
        .dir(&tree)
        .limit(Duration::from_secs(1800))
        .must(&log, &format!("building CRIU {} (about a minute on two cores)", source.version))?;
    let binary = tree.join(&recipe.binary);
    Cmd::new("strip").arg(&binary).quiet()?;
    let found = version_of(&binary).context("the CRIU that was built does not run")?;
    if !version::at_least(&found, &recipe.minimum) {
        bail!("the CRIU that was built says {found}, {} is needed", recipe.minimum);
    }
    install(&binary, &dir, recipe, recipe_digest)?;
    say::ok(format!("CRIU {found} built in {} and installed", say::duration(took)));
    std::fs::remove_dir_all(&dir).with_context(|| format!("removing {}", dir.display()))?;
    let path = installed();
    if !has_feature(&path, &recipe.feature) {
        say::note(format!(
            "this CRIU lacks {}: xtask/criu/README.md says what that limits",
            recipe.feature
        ));
    }
    Ok(path)
}

/// Applies the recipe's patches. They are made for its own version: a newer source that they do
/// not fit is built as it is.
fn patch(workspace: &Workspace, recipe: &Recipe, version: &str, tree: &Path) -> Result<()> {
    for name in &recipe.patches {
        let file = workspace.root.join("xtask/criu").join(name);
        let cmd =
            Cmd::new("patch").args(["-p1", "--forward", "--batch", "-i"]).arg(&file).dir(tree);
        match cmd.clone().arg("--dry-run").quiet() {
            Ok(()) => cmd.quiet().context("patching CRIU")?,
            Err(misfit) if version == recipe.version => {
                return Err(misfit).with_context(|| format!("{name} does not fit CRIU {version}"));
            }
            Err(_) => {
                say::note(format!("{name} does not fit CRIU {version}, which is built without it"))
            }
        }
    }
    Ok(())
}

/// Puts the binary into a folder of its own and only then lets `criu` point at it, so that a node
/// never sees half of one.
fn install(binary: &Path, dir: &Path, recipe: &Recipe, recipe_digest: &str) -> Result<()> {
    let mark = dir.join(MARK);
    std::fs::write(&mark, format!("{recipe_digest}\n"))
        .with_context(|| format!("writing {}", mark.display()))?;
    let folder = folder(recipe, recipe_digest);
    let name = folder.file_name().context("no folder name")?.to_owned();
    let fresh = folder.with_extension("new");
    let link = Path::new(LIBRARY).join(".criu.new");
    let steps = [
        Cmd::new("rm").arg("-rf").arg(&fresh).arg(&folder),
        Cmd::new("install").arg("-d").args(["-m", "755"]).arg(&fresh),
        Cmd::new("install").args(["-m", "755"]).arg(binary).arg(fresh.join("criu")),
        Cmd::new("install").args(["-m", "644"]).arg(&mark).arg(fresh.join(MARK)),
        Cmd::new("mv").arg("-T").arg(&fresh).arg(&folder),
        Cmd::new("ln").arg("-sfn").arg(&name).arg(&link),
        Cmd::new("mv").arg("-T").arg(&link).arg(Path::new(LIBRARY).join("criu")),
    ];
    for step in steps {
        step.rooted().quiet().context("installing CRIU")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_is_read() {
        assert_eq!(parse_version("Version: 4.2.1\nGitID: v4.2.1\n").as_deref(), Some("4.2.1"));
        assert_eq!(parse_version("criu: not found"), None);
    }
}

//! The CRIU recipe, `xtask/criu/recipe.toml`: data only, checked before anything is done with it.

use std::path::{Component, Path};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::digest;

/// How to get a CRIU that Phantom can use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The system's own is used from this version on.
    pub minimum: String,
    /// What `criu check --feature` must know for the whole of Phantom to work.
    pub feature: String,
    /// The version that is built.
    pub version: String,
    /// Where its source is, below the archive's address; the first that exists is taken.
    pub pool_paths: Vec<String>,
    /// SHA-256 of sources that have been looked at.
    pub sha256: Vec<String>,
    /// The folder the source unpacks into.
    pub source_dir: String,
    /// Packages the build needs.
    pub apt_packages: Vec<String>,
    /// Packages CRIU calls when it runs.
    pub runtime_apt_packages: Vec<String>,
    /// Files beside the recipe, applied in order with `patch -p1`.
    pub patches: Vec<String>,
    /// Arguments of make.
    pub make_args: Vec<String>,
    /// The result, relative to the source.
    pub binary: String,
}

impl Recipe {
    /// Reads `recipe.toml` in `dir`. Returns it with a short digest of all that the build depends
    /// on, the patches' contents included: a changed recipe is another CRIU.
    pub fn load(dir: &Path) -> Result<(Recipe, String)> {
        let path = dir.join("recipe.toml");
        let text = std::fs::read_to_string(&path)
            .with_context(|| format!("reading {}", path.display()))?;
        let recipe =
            Recipe::parse(&text).with_context(|| format!("in the recipe {}", path.display()))?;
        let mut all = text.into_bytes();
        for patch in &recipe.patches {
            let path = dir.join(patch);
            let patch =
                std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
            all.extend(patch);
        }
        let digest = digest::of_bytes(&all)?;
        Ok((recipe, digest[..12].to_owned()))
    }

    fn parse(text: &str) -> Result<Recipe> {
        let recipe: Recipe = toml::from_str(text)?;
        if super::version::compare(&recipe.version, &recipe.minimum).is_lt() {
            bail!("version {} is older than minimum {}", recipe.version, recipe.minimum);
        }
        for digest in &recipe.sha256 {
            if digest.len() != 64 || !digest.chars().all(|c| c.is_ascii_hexdigit()) {
                bail!("sha256: {digest:?} is not a SHA-256 digest");
            }
        }
        if recipe.sha256.is_empty() || recipe.pool_paths.is_empty() {
            bail!("sha256 and pool_paths must each name at least one");
        }
        let inside = recipe.patches.iter().chain([&recipe.source_dir, &recipe.binary]);
        for path in inside.chain(&recipe.pool_paths) {
            let plain = |part| matches!(part, Component::Normal(_));
            if path.is_empty() || !Path::new(path).components().all(plain) {
                bail!("{path:?} must be a relative path without `..`");
            }
        }
        Ok(recipe)
    }

    /// Whether a source with this digest has been looked at.
    pub fn knows(&self, sha256: &str) -> bool {
        self.sha256.iter().any(|known| known.eq_ignore_ascii_case(sha256))
    }

    /// The folder the source of `version` unpacks into.
    pub fn source_dir_of(&self, version: &str) -> String {
        self.source_dir.replace(&self.version, version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        minimum = "4.2"
        feature = "ext_ctl_tty"
        version = "4.2.1"
        pool_paths = ["pool/c.tar.gz"]
        sha256 = ["29ec0ee09e296479fe7048c80980e8ef1d0684d0b0204c2b101dfea19f6725b9"]
        source_dir = "criu-4.2.1"
        apt_packages = ["make"]
        runtime_apt_packages = []
        patches = ["0001-a.patch"]
        make_args = ["criu", "NO_GNUTLS=1"]
        binary = "criu/criu"
    "#;

    #[test]
    fn a_good_recipe() {
        let recipe = Recipe::parse(TEXT).unwrap();
        assert!(recipe.knows("29EC0EE09E296479FE7048C80980E8EF1D0684D0B0204C2B101DFEA19F6725B9"));
        assert!(!recipe.knows("00"));
        assert_eq!(recipe.source_dir_of("4.3"), "criu-4.3");
    }

    #[test]
    fn a_bad_recipe_is_refused() {
        for (from, to) in [
            ("criu/criu", "../criu"),
            ("0001-a.patch", "/etc/passwd"),
            ("29ec", "xxxx"),
            ("\"4.2\"", "\"4.9\""),
            ("binary", "binaries"),
            ("[\"pool/c.tar.gz\"]", "[]"),
        ] {
            assert!(Recipe::parse(&TEXT.replace(from, to)).is_err(), "{from} -> {to}");
        }
    }

    #[test]
    fn the_recipe_of_the_tree_is_good() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("criu");
        let (recipe, digest) = Recipe::load(&dir).unwrap();
        assert_eq!(digest.len(), 12);
        assert!(!recipe.make_args.is_empty());
    }
}

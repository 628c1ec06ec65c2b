//! What the tests, the demo and the benchmarks are told: environment variables.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command::Cmd;
use crate::setup::{Image, Ready};
use crate::test::build::{Built, ForDesktops};
use crate::{digest, say};

/// Where copies of `phantom` go.
const STAGE: &str = "/var/cache/phantom/bin";

/// The variables. The desktops' images they name stay as long as this lives.
pub struct Environment {
    variables: Vec<(&'static str, OsString)>,
    images: Vec<Image>,
}

impl Environment {
    /// What every program is told.
    pub fn make(built: &Built, ready: Ready) -> Result<Environment> {
        let variables = vec![
            ("PHANTOM_BIN", stage(built)?.into()),
            ("PHANTOM_CRIU", ready.criu.into()),
            ("PHANTOM_SECOND_ROOT", ready.second_root.into()),
        ];
        Ok(Environment { variables, images: ready.images })
    }

    /// Adds what the programs of the desktop tier are told besides.
    pub fn with_desktops(mut self, programs: &ForDesktops) -> Environment {
        let images = self.images.iter().map(|image| (image.release.as_str(), &*image.path));
        self.variables.push(("PHANTOM_DESKTOP_IMAGES", pairs(images)));
        self.variables.push(("PHANTOM_FOR_DESKTOPS", programs.phantom.clone().into()));
        self.variables.push(("PHANTOM_DESKTOP_AGENT", programs.agent.clone().into()));
        self
    }

    /// The command with these variables.
    pub fn give(&self, cmd: Cmd) -> Cmd {
        self.variables.iter().fold(cmd, |cmd, (name, value)| cmd.env(name, value))
    }
}

/// `name=path,name=path`
fn pairs<'a>(images: impl Iterator<Item = (&'a str, &'a Path)>) -> OsString {
    let mut text = OsString::new();
    for (name, path) in images {
        if !text.is_empty() {
            text.push(",");
        }
        text.push(name);
        text.push("=");
        text.push(path);
    }
    text
}

/// Copies the `phantom` that was built to where every user can run it: a clone lies in somebody's
/// home, which others may not enter and which the nodes of a laboratory cover with their own.
fn stage(built: &Built) -> Result<PathBuf> {
    let phantom = built.program("phantom")?;
    let key = digest::of_bytes(phantom.as_os_str().as_encoded_bytes())?;
    let staged = Path::new(STAGE).join(&key[..12]).join("phantom");
    Cmd::new("install")
        .args(["-D", "-C", "-m", "755"])
        .args([&phantom, &staged])
        .rooted()
        .quiet()
        .context("copying phantom to where every user can run it")?;
    say::ok(format!("phantom copied to {}, where every user can run it", staged.display()));
    Ok(staged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_named_in_one_variable() {
        let images = [("debian12", Path::new("/i/a")), ("debian13", Path::new("/i/b"))];
        assert_eq!(pairs(images.into_iter()), "debian12=/i/a,debian13=/i/b");
    }
}

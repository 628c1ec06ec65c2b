//! What the test desktops stand on: QEMU, and an image for each Debian release.

mod image;
mod modules;
mod qemu;

use anyhow::{Result, bail};

use super::debian::{self, Recipe};
use crate::say;
use crate::workspace::Workspace;
pub use image::{Image, OLDEST_LIBC};

/// What makes the disks that desktops start with: of an image, and of what they are given.
const DISKS: [&str; 2] = ["e2fsprogs", "qemu-utils"];
/// What an image takes besides, and besides what a root does: the kernel's modules are packed.
const IMAGE: [&str; 1] = ["xz-utils"];

/// What there is.
pub struct State {
    qemu: Option<String>,
    images: Vec<Image>,
    missing: Vec<Recipe>,
}

impl State {
    /// Finds out; changes nothing.
    pub fn find() -> Result<State> {
        if !cfg!(target_arch = "x86_64") {
            bail!("the test desktops are x86-64 machines, this is none: `--tier fast` goes on");
        }
        let (mut images, mut missing) = (Vec::new(), Vec::new());
        for recipe in image::RECIPES {
            match Image::find(&recipe)? {
                Some(image) => images.push(image),
                None => missing.push(recipe),
            }
        }
        Ok(State { qemu: qemu::version()?, images, missing })
    }

    /// Packages that must be there.
    pub fn packages(&self) -> Vec<&'static str> {
        let mut packages = DISKS.to_vec();
        if self.qemu.is_none() {
            packages.push(qemu::PACKAGE);
        }
        if !self.missing.is_empty() {
            packages.extend(debian::PACKAGES.iter().chain(&IMAGE));
        }
        packages
    }

    /// What will be changed, one line each; installing packages is not among it.
    pub fn changes(&self) -> Result<Vec<String>> {
        self.missing.iter().map(image::intention).collect()
    }

    /// Says what there is and what not.
    pub fn say(&self) {
        match &self.qemu {
            Some(version) => say::ok(format!("QEMU {version} for the test desktops")),
            None => say::need(qemu::missing()),
        }
        for image in &self.images {
            say::ok(format!("disk of a {} desktop: {}", image.release, image.path.display()));
        }
        for recipe in &self.missing {
            say::need(format!("disk of a {} desktop", image::name(recipe)));
        }
    }

    /// What is still missing when the packages are in and [`State::build`] is done.
    pub fn lacks(&self) -> Option<String> {
        let images = self.missing.iter().map(|recipe| format!("the {} disk", image::name(recipe)));
        let qemu = self.qemu.is_none().then(qemu::missing);
        let lacks: Vec<String> = qemu.into_iter().chain(images).collect();
        (!lacks.is_empty()).then(|| lacks.join(", "))
    }

    /// Makes the images that are missing.
    pub fn build(&self, workspace: &Workspace) -> Result<()> {
        self.missing.iter().try_for_each(|recipe| image::build(workspace, recipe))
    }

    /// The images, in use from now on.
    pub fn into_images(self) -> Vec<Image> {
        self.images
    }
}

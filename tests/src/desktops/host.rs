//! What this machine has for desktops: QEMU, an accelerator, the images that set-up made.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};

use super::os;
use super::shape::{Accel, Release};

/// QEMU's oldest version that is known to work.
const OLDEST_QEMU: (u32, u32) = (7, 2);

/// This machine.
pub struct Host {
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// What it says of its version.
    pub qemu_version: String,
    /// How machines are run.
    pub accel: Accel,
    /// Rate of the time stamp counter.
    pub tsc_khz: u64,
    /// Folders of the images.
    pub images: BTreeMap<Release, PathBuf>,
    /// The agent.
    pub agent: PathBuf,
    /// The `phantom` that runs on all releases.
    pub phantom: PathBuf,
    /// The folder of CRIU.
    pub criu: PathBuf,
}

impl Host {
    /// Looks once.
    pub fn get() -> anyhow::Result<&'static Self> {
        static HOST: OnceLock<Result<Host, String>> = OnceLock::new();
        let host = HOST.get_or_init(|| {
            Self::find().map_err(|error| format!("{error:#}")).inspect(|host| {
                println!("NOTE desktops: {} on {}", host.qemu_version, host.accel.name());
            })
        });
        host.as_ref().map_err(|error| anyhow::anyhow!("no test desktops here: {error}"))
    }

    fn find() -> anyhow::Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "they need root: use `cargo xtask test`");
        let images = variable("PHANTOM_DESKTOP_IMAGES")?;
        let images = parse_images(images.to_str().context("PHANTOM_DESKTOP_IMAGES is no UTF-8")?)?;
        let (agent, phantom) =
            (variable("PHANTOM_DESKTOP_AGENT")?, variable("PHANTOM_FOR_DESKTOPS")?);
        let criu = PathBuf::from(variable("PHANTOM_CRIU")?);
        let criu = criu.parent().context("PHANTOM_CRIU names no file")?.to_owned();
        let qemu = PathBuf::from("qemu-system-x86_64");
        let output = Command::new(&qemu)
            .arg("--version")
            .output()
            .context("cannot run qemu-system-x86_64: install qemu-system-x86")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        let qemu_version = check_qemu(&printed)?;
        let (agent, phantom) = (agent.into(), phantom.into());
        let (accel, tsc_khz) = (accelerator(), os::tsc_khz());
        Ok(Self { qemu, qemu_version, accel, tsc_khz, images, agent, phantom, criu })
    }

    /// The image of a release.
    pub fn image(&self, release: Release) -> anyhow::Result<&Path> {
        let image = self.images.get(&release);
        Ok(image.with_context(|| format!("no image of {}", release.name()))?)
    }
}

fn variable(name: &str) -> anyhow::Result<std::ffi::OsString> {
    std::env::var_os(name)
        .with_context(|| format!("{name} is not set: use `cargo xtask test --tier desktops`"))
}

/// Reads `debian12=/folder,debian13=/folder`.
fn parse_images(text: &str) -> anyhow::Result<BTreeMap<Release, PathBuf>> {
    let mut images = BTreeMap::new();
    for part in text.split(',') {
        let (name, folder) = part.split_once('=').context("PHANTOM_DESKTOP_IMAGES lacks a `=`")?;
        let release = Release::ALL.into_iter().find(|release| release.name() == name);
        let release = release.with_context(|| format!("no release is named {name}"))?;
        images.insert(release, PathBuf::from(folder));
    }
    Ok(images)
}

/// `QEMU 7.2.1` from what it printed; an error when it is too old.
fn check_qemu(printed: &str) -> anyhow::Result<String> {
    let version = printed
        .split_whitespace()
        .skip_while(|word| *word != "version")
        .nth(1)
        .context("qemu-system-x86_64 does not say its version")?;
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let found = (numbers.first().copied().unwrap_or(0), numbers.get(1).copied().unwrap_or(0));
    let (major, minor) = OLDEST_QEMU;
    if found < OLDEST_QEMU {
        bail!("QEMU {version} is too old, {major}.{minor} is needed: upgrade qemu-system-x86");
    }
    Ok(format!("QEMU {version}"))
}

/// KVM where it is the real thing and lets guests have guests.
fn accelerator() -> Accel {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let nested = [("svm", "kvm_amd"), ("vmx", "kvm_intel")].into_iter().find(|(flag, module)| {
        let nested = format!("/sys/module/{module}/parameters/nested");
        flags.split_whitespace().any(|word| word == *flag)
            && std::fs::read_to_string(nested).is_ok_and(|text| ["1", "Y"].contains(&text.trim()))
    });
    // An emulated /dev/kvm comes without the processor's flag.
    match nested {
        Some((nested, _)) if Path::new("/dev/kvm").exists() => Accel::Kvm { nested },
        _ => Accel::Tcg,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_qemu_is_named() {
        let good = "QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright";
        assert_eq!(check_qemu(good).unwrap(), "QEMU 7.2.22");
        assert!(check_qemu("QEMU emulator version 10.0.2").is_ok());
        let error = check_qemu("QEMU emulator version 5.2.0").unwrap_err().to_string();
        assert!(error.contains("5.2.0 is too old") && error.contains("upgrade"), "{error}");
        assert!(check_qemu("").is_err());
    }

    #[test]
    fn images_are_told_apart() {
        let images = parse_images("debian12=/a,debian13=/b").unwrap();
        assert_eq!(images[&Release::Debian13], PathBuf::from("/b"));
        assert!(parse_images("debian11=/a").is_err());
        assert!(parse_images("").is_err());
    }
}

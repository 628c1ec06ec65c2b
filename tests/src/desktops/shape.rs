//! What a desktop is made of, and the machine QEMU is asked for. Pure.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// A Debian release, with the kernel it came with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Release {
    /// bookworm, Linux 6.1.
    Debian12,
    /// trixie, Linux 6.12.
    Debian13,
}

impl Release {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Debian12, Self::Debian13];

    /// Its name where images are listed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian12 => "debian12",
            Self::Debian13 => "debian13",
        }
    }
}

/// What process 1 is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Init {
    /// The agent itself: usable at once.
    Agent,
    /// systemd, with the agent as a unit: for what needs units, and slow to boot.
    Systemd,
}

/// How the machine is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Accel {
    /// On the real thing; `nested` is the flag that lets guests have guests.
    Kvm {
        /// `svm` or `vmx`.
        nested: &'static str,
    },
    /// By translation: everywhere, some ten times slower.
    Tcg,
}

impl Accel {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm { .. } => "KVM",
            Self::Tcg => "TCG",
        }
    }

    /// How many times longer waits for a desktop may take. Translated ones share few processors with
    /// the code that translates them: a move of a second takes a minute, and on a bad day three.
    pub fn slowness(self) -> u32 {
        match self {
            Self::Kvm { .. } => 1,
            Self::Tcg => 3,
        }
    }

    /// QEMU's processor. The same model everywhere, so that programs can move between desktops and
    /// into guests of theirs: a newer one, and a guest would lack what its host's programs use.
    fn cpu(self) -> String {
        match self {
            Self::Kvm { nested } => format!("Nehalem,+{nested}"),
            Self::Tcg => "Nehalem,+svm,+npt,vendor=AuthenticAMD".to_owned(),
        }
    }
}

/// A kind of machine: those of one shape are clones of one golden state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Its system.
    pub release: Release,
    /// Its process 1.
    pub init: Init,
    /// Processors.
    pub cpus: u8,
    /// Memory.
    pub memory_mib: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { release: Release::Debian13, init: Init::Agent, cpus: 1, memory_mib: 512 }
    }
}

impl Shape {
    /// One word that names it.
    pub fn name(&self) -> String {
        let init = match self.init {
            Init::Agent => "",
            Init::Systemd => "-systemd",
        };
        format!("{}{init}-{}cpu-{}mib", self.release.name(), self.cpus, self.memory_mib)
    }
}

/// Where the parts of one machine lie.
#[derive(Debug, Clone)]
pub struct Parts {
    /// The kernel.
    pub kernel: PathBuf,
    /// What it loads first.
    pub initrd: PathBuf,
    /// Its own disk, qcow2.
    pub disk: PathBuf,
    /// What is delivered to it, raw and read-only.
    pub delivery: PathBuf,
    /// Folder of its sockets and logs.
    pub folder: PathBuf,
    /// Its network interface on the host.
    pub tap: String,
    /// Its number in its network, which its addresses are made of.
    pub number: u8,
    /// A saved state to go on from; it boots when absent.
    pub state: Option<PathBuf>,
}

impl Parts {
    /// Where QEMU connects its agent's port to.
    pub fn agent_socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Where QEMU connects its control channel to.
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join("qmp.sock")
    }

    /// What the kernel prints.
    pub fn serial_log(&self) -> PathBuf {
        self.folder.join("serial.log")
    }

    /// What QEMU prints.
    pub fn qemu_log(&self) -> PathBuf {
        self.folder.join("qemu.log")
    }
}

/// The hardware address of the desktop with this number.
pub fn mac(number: u8) -> String {
    format!("52:54:00:78:00:{number:02x}")
}

/// The arguments of `qemu-system-x86_64`. `tsc_khz` is the rate of this machine's time stamp
/// counter: a guest that has to measure it while the machine is busy is wrong for ever.
pub fn qemu_args(shape: &Shape, accel: Accel, parts: &Parts, tsc_khz: u64) -> Vec<OsString> {
    let with = |head: &str, path: &Path, tail: &str| {
        let mut text = OsString::from(head);
        text.push(path);
        text.push(tail);
        text
    };
    let mut args: Vec<OsString> = Vec::new();
    let mut add = |words: &[&str]| args.extend(words.iter().map(OsString::from));
    match accel {
        Accel::Kvm { .. } => add(&["-accel", "kvm"]),
        // A small cache of translated code: most of a desktop's memory otherwise.
        Accel::Tcg => add(&["-accel", "tcg,tb-size=128"]),
    }
    add(&["-M", "pc", "-cpu", &accel.cpu(), "-smp", &shape.cpus.to_string()]);
    add(&["-m", &format!("{}M", shape.memory_mib)]);
    add(&["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-rtc", "base=utc"]);
    let init = match shape.init {
        Init::Agent => "agent",
        Init::Systemd => "systemd",
    };
    add(&["-append"]);
    add(&[&format!(
        "console=ttyS0 panic=-1 net.ifnames=0 tsc_early_khz={tsc_khz} phantom.init={init}"
    )]);
    add(&["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    add(&["-device", &format!("virtserialport,chardev=agent,name={}", super::wire::PORT)]);
    add(&["-mon", "chardev=control,mode=control", "-serial", "chardev:serial"]);
    add(&["-netdev", &format!("tap,id=net,ifname={},script=no,downscript=no", parts.tap)]);
    // A device that is reset, as by a sleep, falls back to this address.
    let mac = mac(parts.number);
    add(&["-device", &format!("virtio-net-pci,netdev=net,romfile=,mac={mac}")]);
    add(&["-device", "virtio-blk-pci,drive=disk", "-device", "virtio-blk-pci,drive=delivery"]);
    // Unsafe only if this machine itself loses power: then nothing here is wanted any more.
    let disk = ",if=none,id=disk,format=qcow2,cache=unsafe,discard=unmap";
    args.extend([OsString::from("-drive"), with("file=", &parts.disk, disk)]);
    let delivery = ",if=none,id=delivery,format=raw,readonly=on";
    args.extend([OsString::from("-drive"), with("file=", &parts.delivery, delivery)]);
    for (id, path) in [("agent", parts.agent_socket()), ("control", parts.control_socket())] {
        let text = with(&format!("socket,id={id},path="), &path, "");
        args.extend([OsString::from("-chardev"), text]);
    }
    let serial = with("file,id=serial,append=on,path=", &parts.serial_log(), "");
    args.extend([OsString::from("-chardev"), serial]);
    args.extend([OsString::from("-kernel"), parts.kernel.clone().into()]);
    args.extend([OsString::from("-initrd"), parts.initrd.clone().into()]);
    if let Some(state) = &parts.state {
        args.extend([OsString::from("-incoming"), with("exec:cat '", state, "'")]);
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(state: Option<&str>) -> Parts {
        Parts {
            kernel: "/i/vmlinuz".into(),
            initrd: "/i/initrd".into(),
            disk: "/d/disk".into(),
            delivery: "/d/delivery".into(),
            folder: "/f".into(),
            tap: "tap0".into(),
            number: 1,
            state: state.map(Into::into),
        }
    }

    #[test]
    fn a_clone_has_the_machine_of_its_golden_state() {
        let words = |state| {
            qemu_args(&Shape::default(), Accel::Tcg, &parts(state), 2_300_000)
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect::<Vec<_>>()
        };
        let (golden, clone) = (words(None), words(Some("/g/state")));
        assert_eq!(clone[..golden.len()], golden[..]);
        assert_eq!(clone[golden.len()..], ["-incoming", "exec:cat '/g/state'"]);
        assert!(golden.iter().any(|word| word.contains("tsc_early_khz=2300000")));
    }

    #[test]
    fn shapes_have_names_of_their_own() {
        let mut names: Vec<String> = Release::ALL
            .into_iter()
            .flat_map(|release| [Init::Agent, Init::Systemd].map(|init| (release, init)))
            .map(|(release, init)| Shape { release, init, ..Shape::default() }.name())
            .collect();
        assert_eq!(names[0], "debian12-1cpu-512mib");
        names.dedup();
        assert_eq!(names.len(), 4);
    }
}

use std::io;
use std::path::PathBuf;

use phantom_model::{AppId, Limit};
use thiserror::Error;

/// What went wrong between the monitor and the kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MonitorError {
    /// The kernel has no type information of itself.
    #[error(
        "the kernel gives no BTF ({path} is missing), so it cannot be watched; use a kernel built \
         with CONFIG_DEBUG_INFO_BTF, as those of the distributions are"
    )]
    NoBtf {
        /// Where it should be.
        path: &'static str,
    },
    /// The kernel programs were refused.
    #[error(
        "cannot load the kernel programs: {source}; this takes root (CAP_BPF and CAP_PERFMON) and \
         Linux 6.1 or later, not locked down for confidentiality"
    )]
    Load {
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A kernel program or map is not in the object.
    #[error("the kernel object lacks `{name}`; it does not belong to this build")]
    Missing {
        /// Its name.
        name: &'static str,
    },
    /// A kernel program could not be run or attached.
    #[error("cannot run or attach the kernel program `{name}`: {source}")]
    Run {
        /// Its name.
        name: &'static str,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// A kernel program ran and refused.
    #[error("the kernel program `{name}` gave up with code {code}")]
    Refused {
        /// Its name.
        name: &'static str,
        /// Its answer.
        code: i32,
    },
    /// The number of CPUs is not to be had.
    #[error("cannot read the possible CPUs from {path}: {source}")]
    Cpus {
        /// The file.
        path: &'static str,
        /// What went wrong.
        source: io::Error,
    },
    /// A cgroup's directory cannot be opened.
    #[error("cannot open the cgroup {path} of app {app}: {source}")]
    OpenCgroup {
        /// Whose.
        app: AppId,
        /// Its directory.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Not a cgroup of the v2 hierarchy.
    #[error("cannot watch app {app}: its cgroup is not one of the v2 hierarchy ({source})")]
    NotCgroup {
        /// Whose.
        app: AppId,
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
    /// No room for another app.
    #[error("cannot watch app {app}: {max} apps are watched already, and that is the most")]
    Full {
        /// Which app.
        app: AppId,
        /// How many there may be.
        max: usize,
    },
    /// The app is not watched.
    #[error("app {app} is not watched")]
    Unknown {
        /// Which app.
        app: AppId,
    },
    /// The kernel does not keep what a limit is about.
    #[error(
        "cannot watch `{limit}` of app {app}: this kernel keeps no account of it; use one built \
         with {option}, as those of the distributions are"
    )]
    NotKept {
        /// Whose limit.
        app: AppId,
        /// Which.
        limit: Limit,
        /// What the kernel lacks.
        option: &'static str,
    },
    /// The kernel does not say how much programs are held up.
    #[error(
        "no limit on stutter can be watched, as {path} cannot be read: {source}; boot this kernel \
         with `psi=1`"
    )]
    Pressure {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
    /// Crossings cannot be fetched.
    #[error("cannot read the crossings: {source}")]
    Ring {
        /// What the kernel said.
        source: libbpf_rs::Error,
    },
}

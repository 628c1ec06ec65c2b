//! The part of CRIU's RPC protocol that is used here (protobuf messages over a SEQPACKET socket).
//! Only the tags are given by CRIU; fields that Phantom never sets are left out.

use prost::{Enumeration, Message};

/// What a message asks for or answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub enum Kind {
    /// Never sent by CRIU on purpose.
    Empty = 0,
    /// Save a tree.
    Dump = 1,
    /// Rebuild a tree.
    Restore = 2,
    /// A step was reached; CRIU waits for the answer.
    Notify = 6,
    /// Ask for features.
    FeatureCheck = 9,
    /// Ask for the version.
    Version = 10,
}

/// How cgroups are treated: not at all.
pub const CGROUPS_IGNORE: i32 = 0;
/// How the network is locked: not at all.
pub const NETWORK_LOCK_SKIP: i32 = 3;

/// A file descriptor handed to the restored tree.
#[derive(Clone, PartialEq, Message)]
pub struct InheritFd {
    /// Its name in the image.
    #[prost(string, required, tag = "1")]
    pub key: String,
    /// Its number in the CRIU process.
    #[prost(int32, required, tag = "2")]
    pub fd: i32,
}

/// Options of a dump or a restore.
#[derive(Clone, PartialEq, Message)]
pub struct Options {
    /// Unused (`-1`): `images_dir` is given.
    #[prost(int32, required, tag = "1")]
    pub images_dir_fd: i32,
    /// Root of the tree to save.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
    /// Leave the tree alive after the dump.
    #[prost(bool, optional, tag = "3")]
    pub leave_running: Option<bool>,
    /// Unix sockets with a peer outside of the tree.
    #[prost(bool, optional, tag = "4")]
    pub ext_unix_sk: Option<bool>,
    /// Save established TCP connections.
    #[prost(bool, optional, tag = "5")]
    pub tcp_established: Option<bool>,
    /// Save file locks.
    #[prost(bool, optional, tag = "8")]
    pub file_locks: Option<bool>,
    /// 0 messages, 1 errors, 2 warnings, 3 information, 4 everything.
    #[prost(int32, optional, tag = "9")]
    pub log_level: Option<i32>,
    /// Name of the log in the work directory.
    #[prost(string, optional, tag = "10")]
    pub log_file: Option<String>,
    /// Send [`Notify`] at each step.
    #[prost(bool, optional, tag = "12")]
    pub notify_scripts: Option<bool>,
    /// Root of the restored tree.
    #[prost(string, optional, tag = "13")]
    pub root: Option<String>,
    /// Free image pages as they are read.
    #[prost(bool, optional, tag = "16")]
    pub auto_dedup: Option<bool>,
    /// Directory for log, statistics and the like: a descriptor of the client.
    #[prost(int32, optional, tag = "17")]
    pub work_dir_fd: Option<i32>,
    /// Link unlinked but still named files back.
    #[prost(bool, optional, tag = "18")]
    pub link_remap: Option<bool>,
    /// The old switch for cgroups.
    #[prost(bool, optional, tag = "24")]
    pub manage_cgroups: Option<bool>,
    /// Make the restored root a sibling of the CRIU process.
    #[prost(bool, optional, tag = "26")]
    pub rst_sibling: Option<bool>,
    /// Descriptors for the restored tree.
    #[prost(message, repeated, tag = "27")]
    pub inherit_fd: Vec<InheritFd>,
    /// [`CGROUPS_IGNORE`].
    #[prost(int32, optional, tag = "34")]
    pub manage_cgroups_mode: Option<i32>,
    /// Largest unlinked file that is saved whole, in bytes.
    #[prost(uint32, optional, tag = "35")]
    pub ghost_limit: Option<u32>,
    /// References that lead out of the tree. Strings to CRIU; paths in them are bytes, though.
    #[prost(bytes = "vec", repeated, tag = "37")]
    pub external: Vec<Vec<u8>>,
    /// Namespaces saved without their content (`CLONE_NEWNET` only).
    #[prost(uint32, optional, tag = "38")]
    pub empty_ns: Option<u32>,
    /// Freeze through this cgroup.
    #[prost(string, optional, tag = "44")]
    pub freeze_cgroup: Option<String>,
    /// Seconds for freezing.
    #[prost(uint32, optional, tag = "45")]
    pub timeout: Option<u32>,
    /// [`NETWORK_LOCK_SKIP`].
    #[prost(int32, optional, tag = "64")]
    pub network_lock: Option<i32>,
    /// Path of the image directory.
    #[prost(string, optional, tag = "68")]
    pub images_dir: Option<String>,
}

/// Features CRIU can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Features {
    /// Soft-dirty tracking.
    #[prost(bool, optional, tag = "1")]
    pub mem_track: Option<bool>,
    /// userfaultfd.
    #[prost(bool, optional, tag = "2")]
    pub lazy_pages: Option<bool>,
}

/// What is sent to CRIU.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// What is asked for.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// Options of a dump or restore.
    #[prost(message, optional, tag = "2")]
    pub options: Option<Options>,
    /// Answer to a [`Notify`].
    #[prost(bool, optional, tag = "3")]
    pub notify_success: Option<bool>,
    /// Features asked for.
    #[prost(message, optional, tag = "5")]
    pub features: Option<Features>,
}

/// Outcome of a restore.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Restored {
    /// The root's process id.
    #[prost(int32, required, tag = "1")]
    pub pid: i32,
}

/// A step was reached.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Notify {
    /// Which.
    #[prost(string, optional, tag = "1")]
    pub script: Option<String>,
    /// The root's process id, at some steps.
    #[prost(int32, optional, tag = "2")]
    pub pid: Option<i32>,
}

/// CRIU's version.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Version {
    /// 4 of 4.2.1.
    #[prost(int32, required, tag = "1")]
    pub major: i32,
    /// 2 of 4.2.1.
    #[prost(int32, required, tag = "2")]
    pub minor: i32,
    /// 1 of 4.2.1.
    #[prost(int32, optional, tag = "4")]
    pub sublevel: Option<i32>,
}

/// What CRIU answers.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// What this answers.
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub kind: i32,
    /// Whether it was done.
    #[prost(bool, required, tag = "2")]
    pub success: bool,
    /// After a restore.
    #[prost(message, optional, tag = "4")]
    pub restored: Option<Restored>,
    /// At a step.
    #[prost(message, optional, tag = "5")]
    pub notify: Option<Notify>,
    /// An errno of the failure.
    #[prost(int32, optional, tag = "7")]
    pub errno: Option<i32>,
    /// After a feature check.
    #[prost(message, optional, tag = "8")]
    pub features: Option<Features>,
    /// The first error of the log.
    #[prost(string, optional, tag = "9")]
    pub message: Option<String>,
    /// After a version request.
    #[prost(message, optional, tag = "10")]
    pub version: Option<Version>,
}

//! CRIU's image messages, as far as the check looks at them. Tags are CRIU's; what is left out is
//! what cannot give a restored program anything its user did not have. Fields are named as in CRIU,
//! whose protobuf files document them.
#![allow(missing_docs)]

use prost::Message;

/// `inventory.img`.
#[derive(Clone, PartialEq, Message)]
pub struct Inventory {
    #[prost(uint32, required, tag = "1")]
    pub img_version: u32,
    #[prost(message, optional, tag = "3")]
    pub root_ids: Option<Ids>,
    #[prost(bool, optional, tag = "4")]
    pub ns_per_id: Option<bool>,
    #[prost(message, optional, tag = "12")]
    pub plugins: Option<Plugins>,
}

/// Plugins a dump used.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Plugins {
    #[prost(string, repeated, tag = "12")]
    pub plugins: Vec<String>,
}

/// `ids-N.img`: which task shares what with whom.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ids {
    #[prost(uint32, optional, tag = "5")]
    pub pid_ns: Option<u32>,
    #[prost(uint32, optional, tag = "6")]
    pub net_ns: Option<u32>,
    #[prost(uint32, optional, tag = "7")]
    pub ipc_ns: Option<u32>,
    #[prost(uint32, optional, tag = "8")]
    pub uts_ns: Option<u32>,
    #[prost(uint32, optional, tag = "9")]
    pub mnt_ns: Option<u32>,
    #[prost(uint32, optional, tag = "10")]
    pub user_ns: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub cgroup_ns: Option<u32>,
    #[prost(uint32, optional, tag = "12")]
    pub time_ns: Option<u32>,
}

/// One task of `pstree.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Pstree {
    #[prost(uint32, required, tag = "1")]
    pub pid: u32,
    #[prost(uint32, required, tag = "2")]
    pub ppid: u32,
    #[prost(uint32, required, tag = "3")]
    pub pgid: u32,
    #[prost(uint32, required, tag = "4")]
    pub sid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "5")]
    pub threads: Vec<u32>,
}

/// `core-N.img`: one thread.
#[derive(Clone, PartialEq, Message)]
pub struct Core {
    #[prost(uint32, required, tag = "1")]
    pub machine: u32,
    #[prost(message, optional, tag = "3")]
    pub task: Option<TaskCore>,
    #[prost(message, optional, tag = "4")]
    pub ids: Option<Ids>,
    #[prost(message, optional, tag = "5")]
    pub thread: Option<ThreadCore>,
}

/// What the threads of a task share.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TaskCore {
    #[prost(uint32, required, tag = "1")]
    pub state: u32,
    #[prost(uint32, required, tag = "3")]
    pub personality: u32,
    #[prost(uint32, optional, tag = "11")]
    pub old_seccomp_mode: Option<u32>,
    #[prost(int32, optional, tag = "14")]
    pub oom_score_adj: Option<i32>,
}

/// What each thread has of its own.
#[derive(Clone, PartialEq, Message)]
pub struct ThreadCore {
    #[prost(message, optional, tag = "10")]
    pub creds: Option<Creds>,
    #[prost(uint32, optional, tag = "11")]
    pub seccomp_mode: Option<u32>,
}

/// Credentials, inside ids.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Creds {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    #[prost(uint32, required, tag = "3")]
    pub euid: u32,
    #[prost(uint32, required, tag = "4")]
    pub egid: u32,
    #[prost(uint32, required, tag = "5")]
    pub suid: u32,
    #[prost(uint32, required, tag = "6")]
    pub sgid: u32,
    #[prost(uint32, required, tag = "7")]
    pub fsuid: u32,
    #[prost(uint32, required, tag = "8")]
    pub fsgid: u32,
    #[prost(uint32, repeated, packed = "false", tag = "9")]
    pub cap_inh: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "10")]
    pub cap_prm: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub cap_eff: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "14")]
    pub groups: Vec<u32>,
    #[prost(string, optional, tag = "15")]
    pub lsm_profile: Option<String>,
    #[prost(string, optional, tag = "16")]
    pub lsm_sockcreate: Option<String>,
    #[prost(bytes = "vec", optional, tag = "17")]
    pub apparmor_data: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "18")]
    pub no_new_privs: Option<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "19")]
    pub cap_amb: Vec<u32>,
}

/// `userns-N.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UserNs {
    #[prost(message, repeated, tag = "1")]
    pub uid_map: Vec<Extent>,
    #[prost(message, repeated, tag = "2")]
    pub gid_map: Vec<Extent>,
}

/// One extent of an id map.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Extent {
    #[prost(uint32, required, tag = "1")]
    pub first: u32,
    #[prost(uint32, required, tag = "2")]
    pub lower_first: u32,
    #[prost(uint32, required, tag = "3")]
    pub count: u32,
}

/// `utsns-N.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UtsNs {
    #[prost(string, required, tag = "1")]
    pub nodename: String,
    #[prost(string, required, tag = "2")]
    pub domainname: String,
}

/// `netns-N.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct NetNs {
    #[prost(string, optional, tag = "8")]
    pub ext_key: Option<String>,
}

/// `pidns-N.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PidNs {
    #[prost(string, optional, tag = "1")]
    pub ext_key: Option<String>,
}

/// One mount of `mountpoints-N.img`. Strings in CRIU's files; paths on Linux are bytes, though.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Mount {
    #[prost(uint32, required, tag = "1")]
    pub fstype: u32,
    #[prost(uint32, required, tag = "2")]
    pub mnt_id: u32,
    #[prost(uint32, required, tag = "4")]
    pub parent_mnt_id: u32,
    #[prost(uint32, required, tag = "5")]
    pub flags: u32,
    #[prost(bytes = "vec", required, tag = "6")]
    pub root: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "7")]
    pub mountpoint: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "8")]
    pub source: Vec<u8>,
    #[prost(bytes = "vec", required, tag = "9")]
    pub options: Vec<u8>,
    #[prost(uint32, optional, tag = "10")]
    pub shared_id: Option<u32>,
    #[prost(uint32, optional, tag = "11")]
    pub master_id: Option<u32>,
    #[prost(bool, optional, tag = "12")]
    pub with_plugin: Option<bool>,
    #[prost(bool, optional, tag = "13")]
    pub ext_mount: Option<bool>,
    #[prost(string, optional, tag = "14")]
    pub fsname: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub internal_sharing: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub deleted: Option<bool>,
    #[prost(uint32, optional, tag = "17")]
    pub sb_flags: Option<u32>,
    #[prost(string, optional, tag = "18")]
    pub ext_key: Option<String>,
}

/// One open file description of `files.img`.
#[derive(Clone, PartialEq, Message)]
pub struct File {
    #[prost(int32, required, tag = "1")]
    pub kind: i32,
    #[prost(uint32, required, tag = "2")]
    pub id: u32,
    #[prost(message, optional, tag = "3")]
    pub reg: Option<RegFile>,
    #[prost(message, optional, tag = "4")]
    pub inet: Option<InetSocket>,
    #[prost(message, optional, tag = "16")]
    pub unix: Option<UnixSocket>,
    #[prost(message, optional, tag = "17")]
    pub fifo: Option<Numbered>,
    #[prost(message, optional, tag = "19")]
    pub tty: Option<TtyFile>,
}

/// A message of which only the presence of an id matters.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Numbered {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
}

/// A file with a path.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct RegFile {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub flags: u32,
    /// A string in CRIU's files; paths on Linux are bytes, though.
    #[prost(bytes = "vec", required, tag = "6")]
    pub name: Vec<u8>,
    #[prost(sint32, optional, tag = "7")]
    pub mnt_id: Option<i32>,
    #[prost(bool, optional, tag = "9")]
    pub ext: Option<bool>,
    #[prost(uint32, optional, tag = "10")]
    pub mode: Option<u32>,
}

/// An internet socket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct InetSocket {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "3")]
    pub family: u32,
    #[prost(uint32, required, tag = "4")]
    pub kind: u32,
    #[prost(uint32, required, tag = "6")]
    pub state: u32,
    #[prost(uint32, repeated, packed = "false", tag = "11")]
    pub src_addr: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "12")]
    pub dst_addr: Vec<u32>,
    #[prost(uint32, optional, tag = "18")]
    pub ns_id: Option<u32>,
}

/// A Unix socket.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct UnixSocket {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "6")]
    pub uflags: u32,
    #[prost(bytes = "vec", required, tag = "11")]
    pub name: Vec<u8>,
    #[prost(bytes = "vec", optional, tag = "14")]
    pub name_dir: Option<Vec<u8>>,
    #[prost(uint32, optional, tag = "16")]
    pub ns_id: Option<u32>,
}

/// An open terminal.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TtyFile {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub tty_info_id: u32,
    #[prost(uint32, optional, tag = "6")]
    pub regf_id: Option<u32>,
}

/// One terminal of `tty-info.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct TtyInfo {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(int32, required, tag = "2")]
    pub kind: i32,
    #[prost(uint32, required, tag = "8")]
    pub rdev: u32,
    #[prost(uint32, optional, tag = "13")]
    pub dev: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub uid: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub gid: Option<u32>,
}

/// `fs-N.img`: root and working directory of a task.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Fs {
    #[prost(uint32, required, tag = "1")]
    pub cwd_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub root_id: u32,
}

/// `mm-N.img`: memory.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Mm {
    #[prost(uint32, required, tag = "12")]
    pub exe_file_id: u32,
}

/// `seccomp.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct Seccomp {
    #[prost(message, repeated, tag = "1")]
    pub filters: Vec<SeccompFilter>,
}

/// One filter, on top of another.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct SeccompFilter {
    #[prost(bytes = "vec", required, tag = "1")]
    pub filter: Vec<u8>,
    #[prost(uint32, optional, tag = "2")]
    pub prev: Option<u32>,
}

/// One entry of `remap-fpath.img`: a path that exists no more.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct RemapPath {
    #[prost(uint32, required, tag = "1")]
    pub orig_id: u32,
    #[prost(uint32, required, tag = "2")]
    pub remap_id: u32,
    #[prost(int32, optional, tag = "3")]
    pub kind: Option<i32>,
}

/// The head of `ghost-file-N.img`: an unlinked file that travels along.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct GhostFile {
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
}

/// One entry of `memfd.img`.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct MemfdInode {
    #[prost(uint32, required, tag = "2")]
    pub uid: u32,
    #[prost(uint32, required, tag = "3")]
    pub gid: u32,
}

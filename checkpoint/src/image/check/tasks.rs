//! Processes, threads, credentials and namespaces.

use std::collections::BTreeSet;

use super::super::ImageError;
use super::super::name::{FileKind, FileName};
use super::super::proto::{Core, Creds, Ids, Inventory, NetNs, PidNs, Pstree, Seccomp, UtsNs};
use super::{Allowed, Image, refuse};

/// The machine word of this architecture in core images.
#[cfg(target_arch = "x86_64")]
const MACHINE: u32 = 1;
/// The machine word of this architecture in core images.
#[cfg(target_arch = "aarch64")]
const MACHINE: u32 = 3;
/// The machine word of an architecture that Phantom does not know.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const MACHINE: u32 = 0;

/// Task states: running, dead (a zombie), stopped.
const STATES: [u32; 3] = [1, 2, 3];
const DEAD: u32 = 2;
/// `SECCOMP_MODE_FILTER`.
const FILTER: u32 = 2;
/// Longest host name.
const MAX_NODENAME: usize = 64;
/// Most filters in one image.
const MAX_FILTERS: usize = 4096;

/// The namespaces of the one capsule in the image, by CRIU's numbers.
pub(super) struct Namespaces {
    pub(super) user: u32,
    pub(super) mnt: u32,
    pub(super) net: Option<u32>,
}

/// How much there is.
pub(super) struct Counts {
    pub(super) processes: usize,
    pub(super) threads: usize,
}

/// The root task's namespaces: each its own where the plan says so, the machine's elsewhere.
pub(super) fn namespaces(image: &Image, allowed: &Allowed) -> Result<Namespaces, ImageError> {
    let inventory_name = image.get(FileKind::Inventory, 0)?;
    let inventory: Inventory = image.one(inventory_name)?;
    let host = match inventory.root_ids {
        Some(ids) => ids,
        None => return refuse(inventory_name, "root_ids", "absent", "present"),
    };
    if let Some(plugin) = inventory.plugins.iter().flat_map(|list| &list.plugins).next() {
        return refuse(inventory_name, "plugins", plugin, "none");
    }
    let name = image.get(FileKind::Ids, 1)?;
    let root: Ids = image.one(name)?;
    let own = |field: &str, id: Option<u32>, host: Option<u32>| match (id, host) {
        (Some(id), Some(host)) if id != 0 && id != host => Ok(id),
        (None | Some(0), _) => refuse(name, field, "absent", "a namespace of its own"),
        (_, None) => refuse(inventory_name, field, "absent", "present"),
        _ => refuse(name, field, "the machine's", "a namespace of its own"),
    };
    let user = own("user_ns_id", root.user_ns, host.user_ns)?;
    let mnt = own("mnt_ns_id", root.mnt_ns, host.mnt_ns)?;
    own("pid_ns_id", root.pid_ns, host.pid_ns)?;
    own("ipc_ns_id", root.ipc_ns, host.ipc_ns)?;
    let uts = own("uts_ns_id", root.uts_ns, host.uts_ns)?;
    let net = match allowed.own_network {
        true => Some(own("net_ns_id", root.net_ns, host.net_ns)?),
        false => None,
    };
    if root.cgroup_ns != host.cgroup_ns {
        return refuse(name, "cgroup_ns_id", "a namespace of its own", "the machine's");
    }
    no_external(image)?;
    let name = image.get(FileKind::UtsNs, uts)?;
    let uts: UtsNs = image.one(name)?;
    for (field, text) in [("nodename", &uts.nodename), ("domainname", &uts.domainname)] {
        if text.len() > MAX_NODENAME {
            return refuse(name, field, format!("{} bytes", text.len()), "at most 64 bytes");
        }
    }
    Ok(Namespaces { user, mnt, net })
}

/// No namespace is taken from the machine by name.
fn no_external(image: &Image) -> Result<(), ImageError> {
    for name in image.of_kind(FileKind::NetNs) {
        if let Some(key) = image.one::<NetNs>(name)?.ext_key {
            return refuse(name, "ext_key", key, "absent");
        }
    }
    for name in image.of_kind(FileKind::PidNs) {
        if let Some(key) = image.one::<PidNs>(name)?.ext_key {
            return refuse(name, "ext_key", key, "absent");
        }
    }
    Ok(())
}

/// Every task is the app's.
pub(super) fn check(
    image: &Image,
    allowed: &Allowed,
    namespaces: &Namespaces,
) -> Result<Counts, ImageError> {
    let name = image.get(FileKind::Pstree, 0)?;
    let tasks: Vec<Pstree> = image.all(name)?;
    let threads = check_tree(name, &tasks, allowed)?;
    if let Ok(name) = image.get(FileKind::Seccomp, 0) {
        let count = image.one::<Seccomp>(name)?.filters.len();
        if count > MAX_FILTERS {
            return refuse(name, "filters", count, format!("at most {MAX_FILTERS}"));
        }
    }
    let root: Ids = image.one(image.get(FileKind::Ids, 1)?)?;
    for task in &tasks {
        let dead = check_core(image, allowed, task.pid, true)?;
        if dead {
            continue;
        }
        check_ids(image, namespaces, &root, task.pid)?;
        for &thread in task.threads.iter().filter(|&&thread| thread != task.pid) {
            check_core(image, allowed, thread, false)?;
        }
    }
    // A core without a task would be read for nobody, so it is not there for a good reason.
    let known: BTreeSet<u32> =
        tasks.iter().flat_map(|task| task.threads.iter().copied().chain([task.pid])).collect();
    for kind in [FileKind::Core, FileKind::Ids, FileKind::Mm, FileKind::Fs] {
        if let Some(name) = image.of_kind(kind).find(|name| !known.contains(&name.number())) {
            return refuse(name, "the file", "of a task that is not in pstree.img", "absent");
        }
    }
    Ok(Counts { processes: tasks.len(), threads })
}

/// One tree below process 1, of bounded size.
fn check_tree(name: &FileName, tasks: &[Pstree], allowed: &Allowed) -> Result<usize, ImageError> {
    let mut known = BTreeSet::new();
    let mut threads = 0;
    for (index, task) in tasks.iter().enumerate() {
        let field = |what: &str| format!("{what} of task {}", task.pid);
        if index == 0 {
            if (task.pid, task.ppid) != (1, 0) {
                let found = format!("{} below {}", task.pid, task.ppid);
                return refuse(name, "the first task", found, "process 1");
            }
        } else if !known.contains(&task.ppid) {
            return refuse(name, field("ppid"), task.ppid, "a task listed before");
        }
        if task.pid == 0 || !known.insert(task.pid) {
            return refuse(name, field("pid"), task.pid, "a number of its own");
        }
        threads += task.threads.len().max(1);
        if threads > allowed.max_tasks {
            return refuse(name, "tasks", "more", format!("at most {}", allowed.max_tasks));
        }
    }
    match tasks.is_empty() {
        true => refuse(name, "tasks", "none", "at least process 1"),
        false => Ok(threads),
    }
}

/// All tasks share the root's namespaces.
fn check_ids(
    image: &Image,
    namespaces: &Namespaces,
    root: &Ids,
    pid: u32,
) -> Result<(), ImageError> {
    let name = image.get(FileKind::Ids, pid)?;
    let ids: Ids = image.one(name)?;
    let net = |ids: &Ids| namespaces.net.and(ids.net_ns);
    for (field, found, wanted) in [
        ("pid_ns_id", ids.pid_ns, root.pid_ns),
        ("net_ns_id", net(&ids), net(root)),
        ("ipc_ns_id", ids.ipc_ns, root.ipc_ns),
        ("uts_ns_id", ids.uts_ns, root.uts_ns),
        ("mnt_ns_id", ids.mnt_ns, root.mnt_ns),
        ("user_ns_id", ids.user_ns, root.user_ns),
        ("cgroup_ns_id", ids.cgroup_ns, root.cgroup_ns),
        ("time_ns_id", ids.time_ns, root.time_ns),
    ] {
        if found != wanted {
            return refuse(name, field, format!("{found:?}"), format!("{wanted:?} as process 1"));
        }
    }
    Ok(())
}

/// One thread. Gives whether the task is dead (a zombie has nothing more).
fn check_core(image: &Image, allowed: &Allowed, id: u32, leader: bool) -> Result<bool, ImageError> {
    let name = image.get(FileKind::Core, id)?;
    let core: Core = image.one(name)?;
    if core.machine != MACHINE {
        return refuse(name, "mtype", core.machine, MACHINE);
    }
    if core.ids.is_some() {
        return refuse(name, "ids", "present", "absent");
    }
    if leader {
        let Some(task) = &core.task else {
            return refuse(name, "tc", "absent", "present");
        };
        if !STATES.contains(&task.state) {
            return refuse(name, "tc.task_state", task.state, "alive, dead or stopped");
        }
        if let Some(score) = task.oom_score_adj.filter(|&score| score < 0) {
            return refuse(name, "tc.oom_score_adj", score, "at least 0");
        }
        if task.state == DEAD {
            return Ok(true);
        }
    }
    let Some(thread) = core.thread else {
        return refuse(name, "thread_core", "absent", "present");
    };
    let Some(creds) = &thread.creds else {
        return refuse(name, "creds", "absent", "present");
    };
    check_creds(name, creds, allowed)?;
    // The other threads get the leader's filter with it (SECCOMP_FILTER_FLAG_TSYNC).
    if leader && allowed.filtered && thread.seccomp_mode != Some(FILTER) {
        return refuse(name, "seccomp_mode", format!("{:?}", thread.seccomp_mode), FILTER);
    }
    Ok(false)
}

fn check_creds(name: &FileName, creds: &Creds, allowed: &Allowed) -> Result<(), ImageError> {
    for (field, id) in [
        ("creds.uid", creds.uid),
        ("creds.euid", creds.euid),
        ("creds.suid", creds.suid),
        ("creds.fsuid", creds.fsuid),
    ] {
        if id != allowed.uid {
            return refuse(name, field, id, allowed.uid);
        }
    }
    for (field, id) in [
        ("creds.gid", creds.gid),
        ("creds.egid", creds.egid),
        ("creds.sgid", creds.sgid),
        ("creds.fsgid", creds.fsgid),
    ] {
        if id != allowed.gid {
            return refuse(name, field, id, allowed.gid);
        }
    }
    let strange = |group: &&u32| **group != allowed.gid && !allowed.groups.contains(group);
    if let Some(group) = creds.groups.iter().find(strange) {
        return refuse(name, "creds.groups", group, format!("{:?}", allowed.groups));
    }
    for (field, words) in [
        ("creds.cap_inh", &creds.cap_inh),
        ("creds.cap_prm", &creds.cap_prm),
        ("creds.cap_eff", &creds.cap_eff),
        ("creds.cap_amb", &creds.cap_amb),
    ] {
        if let Some(word) = words.iter().find(|&&word| word != 0) {
            return refuse(name, field, format!("{word:#x}"), 0);
        }
    }
    if let Some(profile) = creds.lsm_profile.as_deref().filter(|&text| text != "unconfined") {
        return refuse(name, "creds.lsm_profile", profile, "unconfined or absent");
    }
    if creds.lsm_sockcreate.is_some() || creds.apparmor_data.is_some() {
        return refuse(name, "creds.lsm_sockcreate", "present", "absent");
    }
    Ok(())
}

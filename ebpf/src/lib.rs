//! Watches capsules from inside the kernel, and costs the watched next to nothing.
//!
//! [`Monitor::load`] puts a few small programs into the kernel. One of them gives a BPF timer its
//! callback, and this timer does the watching. It looks at each watched cgroup when a look is due,
//! compares what the kernel has accounted with the limits, and posts a [`Crossing`] through a ring
//! buffer when an excursion begins or ends. Nothing is attached where tasks switch; what the kernel
//! itself does not keep for a cgroup is added up where it is rare: at the end of a task, and at a
//! packet of a watched cgroup. [`Monitor`] is readable ([`AsFd`](std::os::fd::AsFd)) while crossings
//! wait. Dropping it frees programs, maps and timer, as the death of its process does.
//!
//! ```text
//!  watch(app, cgroup, limits) ──> slot                         each slot, when due:
//!                                  │                             CPU time of the cgroup ─┐
//!             timer: sleeps until the next slot is due           living tasks: memory,   │
//!                                  │                              delay, disk ───────────┤
//!   ends of tasks ──> delay, disk ─┤                             packets ────────────────┤
//!   packets ────────> bytes ───────┘                                                     v
//!  drain() <── ring buffer <── crossings <──────────────────── window.h: exceeded? due again when?
//! ```
//!
//! # What counts
//! - **CPU**: `cpu=150%/10s` is exceeded when the mean over the last 10 s is above 150 % of a core
//!   and 10 s have been watched. The time is the scheduler's own sum for the cgroup (the one behind
//!   `usage_usec` in `cpu.stat`), kept at every tick and switch with or without a cpu controller. So
//!   a lone spinning thread counts, and so do children that lived for a millisecond.
//! - **Memory**: `memory=2GiB/1s` is exceeded when the resident memory of all processes has been
//!   above 2 GiB at every look for 1 s. The sum is of the anonymous and shared-memory pages of
//!   every address space: `RssAnon` and `RssShmem` in `/proc/PID/status`. Pages of files are left
//!   out: processes that run the same program share them, and the kernel can drop them. Still
//!   counted once for each process that has it mapped: memory not yet copied since a fork, and
//!   shared memory (`/dev/shm`, `memfd`, shared anonymous mappings). Before Linux 6.2 a thread may
//!   keep up to 64 pages of each kind to itself.
//! - **Delay**: `delay=50%/10s` is exceeded when the threads that were ready to run waited for a CPU
//!   for more than 5 s of the last 10 s, all threads added up: the second field of
//!   `/proc/PID/schedstat`. What a task waited is counted once it runs again.
//! - **Net**: `net=10MiB/s/10s` is exceeded when sockets made in the cgroup sent and received more
//!   than 100 MiB in 10 s, IP headers included; a batch of TCP segments that the network card takes
//!   apart counts its headers once. The loopback does not count.
//! - **Disk**: `disk=50MiB/s/10s`, the same for what was read from block devices and what was
//!   written that will reach one: `read_bytes` and `write_bytes` of `/proc/PID/io`. Writing counts
//!   when the page in memory becomes dirty.
//! - An excursion ends a tenth below its level. Crossings of one excursion come once.
//!
//! # Why so
//! An empty program on `sched_switch` alone slows a ping-pong on one core by 5-6 %, accounting there
//! by 10-18 %; here the ratio is 1.00. The looks are few: a limit cannot be exceeded before all CPUs
//! together have used up what is left of it, memory does not grow while nobody runs, and capsules
//! share wake-ups. Windows of 100 ms and of 24 h take the same 2 KiB. A task that ends is asked for
//! its sums before the walk over the living leaves it out, so that a child of a millisecond counts
//! and none counts twice.
//!
//! # Needs
//! Root (CAP_BPF, CAP_PERFMON), BTF, cgroup v2 mounted (its controllers are not needed), Linux 6.1
//! or later. Delay, disk and net need what every distribution's kernel has (CONFIG_SCHED_INFO,
//! CONFIG_TASK_IO_ACCOUNTING, CONFIG_CGROUP_BPF); without it a limit on them is refused with its
//! name. Tried on 6.1, 6.12 and 6.18. To build: clang, libelf and zlib with their headers,
//! pkg-config, make.
//!
//! # Limits
//! [`MAX_APPS`] apps. Tasks of cgroups below the watched one do not count: a capsule is one cgroup
//! and cannot make others. On CPUs that run without a tick (`nohz_full`) the CPU time of a lone
//! thread may lag by a second. Of a cgroup with more than about 32,000 tasks the memory of the first
//! ones is counted. A process that is moved into a cgroup brings its delay and disk sums along.
//!
//! Absent on purpose: what follows from a crossing (`qos` and the node decide), uprobes (a process
//! that hit one cannot be checkpointed), and a memory controller's figure, which counts the page
//! cache and is not there on every machine.

mod error;
mod monitor;
mod os;
mod pressure;
mod wire;

pub use error::MonitorError;
pub use monitor::{Cost, Crossing, MAX_APPS, Monitor, Reading, Use, programs_loaded};
pub use os::now;
pub use pressure::{pressure, recent_pressure};

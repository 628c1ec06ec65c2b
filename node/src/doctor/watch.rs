//! Watch limits: programs in the kernel, their tracepoints and their ring buffer.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::thread;

use super::os::bpf::{self, Insn, Kind, Ring};
use super::{Ability, Finding, Probe};

const BTF: &str = "/sys/kernel/btf/vmlinux";
const STOCK_KERNEL: &str = "boot a stock kernel: it has BPF_SYSCALL and DEBUG_INFO_BTF";

pub fn probes() -> Vec<Probe> {
    vec![
        Probe::essential("eBPF", &[Ability::Watch], programs),
        Probe::essential("kernel types (BTF)", &[Ability::Watch], kernel_types),
        Probe::essential("eBPF tracing", &[Ability::Watch], tracing),
        Probe::useful("pressure (PSI)", &[Ability::Watch], pressure),
    ]
}

/// What a limit on stutter is about.
fn pressure() -> Finding {
    match phantom_ebpf::recent_pressure() {
        Ok([cpu, ..]) => {
            Finding::ok(format!("programs waited {cpu:.0}% of the last 10 s for a CPU"))
        }
        Err(_) => Finding::missing(
            "the kernel does not say how much programs wait: no limit on stutter",
            "boot with the kernel option psi=1",
        ),
    }
}

const RETURNED: i32 = 7;
const EXIT: Insn = Insn::new(0x95, 0, 0, 0, 0);

fn programs() -> Finding {
    let program = [Insn::new(0xb7, 0, 0, 0, RETURNED), EXIT]; // r0 = 7
    let result = bpf::load(Kind::SocketFilter, &program).and_then(|it| bpf::run_once(it.as_fd()));
    match result {
        Ok(returned) if returned == RETURNED as u32 => Finding::ok("a program was loaded and ran"),
        Ok(other) => Finding::missing(
            format!("a program that returns {RETURNED} returned {other}"),
            STOCK_KERNEL,
        ),
        Err(error) => refused("load an eBPF program", &error),
    }
}

/// A kernel may be locked down even against root.
fn refused(doing: &str, error: &io::Error) -> Finding {
    let modes = std::fs::read_to_string("/sys/kernel/security/lockdown").unwrap_or_default();
    if modes.contains("[confidentiality]") && nix::unistd::geteuid().is_root() {
        return Finding::missing(
            format!("cannot {doing}: the kernel is locked down"),
            "boot without `lockdown=confidentiality`",
        );
    }
    Finding::failed(doing, error, STOCK_KERNEL)
}

/// The monitor's programs are fitted to the running kernel by its type descriptions.
fn kernel_types() -> Finding {
    /// The argument types of the tracepoint, which the monitor's programs are attached by.
    const WANTED: &[u8] = b"\0btf_trace_sched_process_exit\0";
    let mut types = Vec::new();
    let result = File::open(BTF).and_then(|file| file.take(64 << 20).read_to_end(&mut types));
    match result {
        Ok(_) if !types.starts_with(&0xeb9f_u16.to_ne_bytes()) => {
            Finding::missing(format!("{BTF} has another format than expected"), STOCK_KERNEL)
        }
        Ok(_) if memchr::memmem::find(&types, WANTED).is_none() => {
            Finding::missing("the scheduler's tracepoints are not described", STOCK_KERNEL)
        }
        Ok(len) => Finding::ok(format!("{BTF}, {}", phantom_model::Bytes(len as u64))),
        Err(error) => Finding::failed(&format!("read {BTF}"), &error, STOCK_KERNEL),
    }
}

/// A program at a tracepoint reports a new thread through a ring buffer.
fn tracing() -> Finding {
    match report_a_fork() {
        Ok(true) => Finding::ok("a tracepoint reported through a ring buffer"),
        Ok(false) => Finding::missing("a program at a tracepoint reported nothing", STOCK_KERNEL),
        Err(error) => refused("trace with eBPF", &error),
    }
}

fn report_a_fork() -> io::Result<bool> {
    const WORD: i32 = 0x5eed;
    const BPF_PSEUDO_MAP_FD: u8 = 1;
    const RINGBUF_OUTPUT: i32 = 130;
    let ring = Ring::new()?;
    let program = [
        Insn::new(0x7a, 10, 0, -8, WORD), // *(u64 *)(r10 - 8) = WORD
        Insn::new(0x18, 1, BPF_PSEUDO_MAP_FD, 0, ring.raw_fd()), // r1 = ring
        Insn::new(0, 0, 0, 0, 0),
        Insn::new(0xbf, 2, 10, 0, 0),             // r2 = r10
        Insn::new(0x07, 2, 0, 0, -8),             // r2 += -8
        Insn::new(0xb7, 3, 0, 0, 8),              // r3 = 8
        Insn::new(0xb7, 4, 0, 0, 0),              // r4 = 0
        Insn::new(0x85, 0, 0, 0, RINGBUF_OUTPUT), // bpf_ringbuf_output(r1, r2, r3, r4)
        Insn::new(0xb7, 0, 0, 0, 0),              // r0 = 0
        EXIT,
    ];
    let program = bpf::load(Kind::RawTracepoint, &program)?;
    let attached = bpf::attach(program.as_fd(), c"sched_process_fork")?;
    // The tracepoint lies in the call that makes a thread: no need to wait for the record.
    thread::Builder::new().spawn(|| {})?;
    drop(attached);
    Ok(ring.first() == Some(WORD as u64))
}

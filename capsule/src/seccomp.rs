//! The system-call filter of a capsule: what CRIU cannot save is answered with ENOSYS, so that
//! programs use what they used before these calls existed. It is no sandbox; everything else
//! passes.

use libc::sock_filter;

/// `io_uring_setup`, `_enter` and `_register` have one number on every architecture.
const IO_URING: std::ops::RangeInclusive<u32> = 425..=427;

#[cfg(target_arch = "x86_64")]
const ARCHES: [(u32, u32); 2] = [
    (0xC000_003E, 323), // AUDIT_ARCH_X86_64, userfaultfd
    (0x4000_0003, 374), // AUDIT_ARCH_I386, userfaultfd
];
#[cfg(target_arch = "aarch64")]
const ARCHES: [(u32, u32); 2] = [
    (0xC000_00B7, 282), // AUDIT_ARCH_AARCH64, userfaultfd
    (0x4000_0028, 388), // AUDIT_ARCH_ARM, userfaultfd
];

/// x32 programs set this bit in the number.
const X32_BIT: u32 = 0x4000_0000;

const OFFSET_NR: u32 = 0;
const OFFSET_ARCH: u32 = 4;

/// The filter: `(architecture, number)` in, allow or ENOSYS out.
pub(crate) fn filter() -> Vec<sock_filter> {
    let load = |offset| statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset);
    let refuse =
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32);
    let allow = statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW);
    let mut program = Vec::new();
    for (arch, userfaultfd) in ARCHES {
        // Eight instructions per architecture; the first jump skips all of them.
        program.push(load(OFFSET_ARCH));
        program.push(jump(libc::BPF_JEQ, arch, 0, 7));
        program.push(load(OFFSET_NR));
        program.push(statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, !X32_BIT));
        program.push(jump(libc::BPF_JEQ, userfaultfd, 2, 0));
        program.push(jump(libc::BPF_JGE, *IO_URING.start(), 0, 2));
        program.push(jump(libc::BPF_JGT, *IO_URING.end(), 1, 0));
        program.push(refuse);
        program.push(allow);
    }
    program.push(allow);
    program
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(test: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | test | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A small interpreter of the instructions used.
    fn run(program: &[sock_filter], arch: u32, nr: u32) -> u32 {
        let (mut a, mut pc) = (0u32, 0usize);
        loop {
            let op = program[pc];
            pc += 1;
            let code = u32::from(op.code);
            let branch = |taken: bool| usize::from(if taken { op.jt } else { op.jf });
            match code & 7 {
                libc::BPF_LD => a = if op.k == OFFSET_ARCH { arch } else { nr },
                libc::BPF_ALU => a &= op.k,
                libc::BPF_RET => return op.k,
                _ if code & 0xf0 == libc::BPF_JEQ => pc += branch(a == op.k),
                _ if code & 0xf0 == libc::BPF_JGE => pc += branch(a >= op.k),
                _ => pc += branch(a > op.k),
            }
        }
    }

    #[test]
    fn only_the_named_calls_are_refused() {
        let program = filter();
        for (arch, userfaultfd) in ARCHES {
            for nr in (0..700).chain([X32_BIT | 425, X32_BIT | 1]) {
                let plain = nr & !X32_BIT;
                let refused = IO_URING.contains(&plain) || plain == userfaultfd;
                let answer = run(&program, arch, nr);
                assert_eq!(answer != libc::SECCOMP_RET_ALLOW, refused, "{arch:x} {nr}");
            }
        }
        assert_eq!(run(&program, 0x1234, 425), libc::SECCOMP_RET_ALLOW);
    }
}

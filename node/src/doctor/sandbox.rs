//! Sandbox foreign apps: whether /dev/kvm is backed by hardware.

use super::{Ability, Finding, Probe};

pub fn probes() -> Vec<Probe> {
    vec![Probe::essential("KVM", &[Ability::Sandbox], kvm)]
}

#[cfg(target_arch = "x86_64")]
fn kvm() -> Finding {
    use std::time::Duration;

    use super::os::kvm::{Ending, run};

    const QUICK: Duration = Duration::from_millis(250);
    const PATIENT: Duration = Duration::from_secs(2);
    const ELSEWHERE: &str = "none here: sandboxes need hardware virtualization";
    // A busy machine or a nested one may need the second try.
    let ending = match run(QUICK) {
        Ok(Ending::TimedOut) => run(PATIENT),
        other => other,
    };
    match ending {
        Ok(Ending::Halted) => Finding::ok("a 64-bit guest with SSE ran on the hardware"),
        Ok(Ending::GaveUp(1)) => {
            Finding::missing("/dev/kvm only emulates: no SSE, no stock kernel", ELSEWHERE)
        }
        Ok(Ending::GaveUp(code)) => {
            Finding::missing(format!("/dev/kvm gave up on the guest (sub-error {code})"), ELSEWHERE)
        }
        Ok(Ending::WrongResult(result)) => {
            Finding::missing(format!("the guest computed wrongly ({result:#x})"), ELSEWHERE)
        }
        Ok(Ending::TimedOut) => Finding::missing("the guest did not end within 2 s", ELSEWHERE),
        Ok(Ending::Unexpected(how)) => {
            Finding::missing(format!("the guest ended unexpectedly: {how}"), ELSEWHERE)
        }
        Err(error) => Finding::failed("start a guest through /dev/kvm", &error, driver_remedy()),
    }
}

/// What makes /dev/kvm appear, by what the processor says of itself.
#[cfg(target_arch = "x86_64")]
fn driver_remedy() -> &'static str {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let flags = info.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |wanted: &str| flags.split_whitespace().any(|flag| flag == wanted);
    if has("vmx") {
        "sudo modprobe kvm-intel"
    } else if has("svm") {
        "sudo modprobe kvm-amd"
    } else {
        "switch VT-x or AMD-V on in the firmware (in a virtual machine: nested virtualization)"
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn kvm() -> Finding {
    Finding::missing(
        format!("sandboxes are not built for {} yet", std::env::consts::ARCH),
        "none here: x86-64 nodes with hardware virtualization can",
    )
}

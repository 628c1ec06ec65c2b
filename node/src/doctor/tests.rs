//! The report's shape, the deadline, and the probes against other signs on this machine's kernel.

use super::*;

fn check(name: &'static str, state: State, gives: &'static [Ability]) -> Check {
    let remedy = (state != State::Ok).then(|| format!("sudo mend {name}"));
    Check {
        name,
        state,
        found: format!("what was found of {name}"),
        essential: true,
        gives,
        remedy,
    }
}

fn sample() -> Report {
    Report::new(
        vec![
            check("ids", State::Ok, &[Ability::Run, Ability::Host]),
            check("soft-dirty", State::Limited, &[Ability::Move]),
            check("FUSE", State::Missing, &[Ability::Host]),
            check("KVM", State::Missing, &[Ability::Sandbox]),
        ],
        None,
    )
}

#[test]
fn what_is_missing_takes_abilities_and_what_is_limited_does_not() {
    let report = sample();
    assert_eq!(report.can, [Ability::Run, Ability::Watch, Ability::Move, Ability::Network]);
    assert_eq!(report.cannot, [Ability::Host, Ability::Sandbox]);
    assert_eq!(
        report.capabilities(),
        [Capability::Monitor, Capability::Checkpoint, Capability::Network]
    );
}

#[test]
fn the_text_groups_by_ability_and_ends_with_the_sum() {
    let expected = "\
run apps
  ok       ids         what was found of ids

move apps away
  limited  soft-dirty  what was found of soft-dirty
           mend: sudo mend soft-dirty

host foreign apps
  missing  FUSE        what was found of FUSE
           mend: sudo mend FUSE

sandbox foreign apps
  missing  KVM         what was found of KVM
           mend: sudo mend KVM

This node can run apps, watch limits, move apps away and give apps a network; it
cannot host foreign apps (FUSE) and sandbox foreign apps (KVM).
";
    assert_eq!(sample().to_text(false), expected);
}

#[test]
fn what_could_not_be_told_is_neither_claimed_nor_denied() {
    let report = Report::new(
        vec![
            check("ids", State::Unknown, &[Ability::Run, Ability::Host]),
            check("FUSE", State::Missing, &[Ability::Host]),
        ],
        None,
    );
    assert_eq!(report.unknown, [Ability::Run]);
    assert_eq!(report.cannot, [Ability::Host]);
    let line = report.closing_line();
    assert!(line.ends_with("Not known is whether it can run apps (ids): sudo mend ids"), "{line}");
    assert!(!report.to_text(false).contains("mend: sudo mend ids"));
}

#[test]
fn colour_adds_nothing_but_colour() {
    let painted = sample().to_text(true);
    assert!(painted.contains("\x1b[31m"));
    let mut plain = painted;
    for code in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, sample().to_text(false));
}

#[test]
fn json_has_every_field_in_every_check() {
    let json = serde_json::to_value(sample()).unwrap();
    assert_eq!(json["can"][0], "run");
    assert_eq!(json["cannot"][1], "sandbox");
    assert!(json["unknown"].as_array().unwrap().is_empty() && json["criu"].is_null());
    let first = &json["checks"][0];
    assert_eq!(first["state"], "ok");
    assert_eq!(first["gives"][1], "host");
    assert!(first["remedy"].is_null() && first.as_object().unwrap().contains_key("remedy"));
    assert_eq!(json["checks"][2]["remedy"], "sudo mend FUSE");
    for check in json["checks"].as_array().unwrap() {
        let mut fields: Vec<_> = check.as_object().unwrap().keys().collect();
        fields.sort();
        assert_eq!(fields, ["essential", "found", "gives", "name", "remedy", "state"]);
    }
}

#[test]
fn a_probe_that_hangs_or_panics_is_reported_and_holds_nothing_up() {
    let (never, wait) = mpsc::channel::<()>();
    let probes = vec![
        Probe::essential("hung", &[Ability::Move], move || {
            let _ = wait.recv();
            Finding::ok("late")
        }),
        Probe::essential("broken", &[Ability::Watch], || {
            // Not `panic!`: the message of a resumed unwinding is not printed.
            std::panic::resume_unwind(Box::new("broken"))
        }),
        Probe::essential("well", &[Ability::Run], || Finding::ok("done")),
    ];
    let start = Instant::now();
    let report = Report::new(run_all(probes, Duration::from_millis(200)), None);
    assert!(start.elapsed() < Duration::from_secs(2));
    assert_eq!(report.unknown, [Ability::Watch, Ability::Move]);
    assert_eq!(report.checks[2].state, State::Ok);
    drop(never);
}

fn here() -> Places {
    Places {
        run_dir: "/run/phantom".into(),
        cache_dir: "/var/cache/phantom/files".into(),
        home_dir: std::env::var_os("HOME").map_or("/root".into(), PathBuf::from),
        criu: None,
    }
}

/// What a careless probe would leave on the system.
fn traces() -> Vec<String> {
    let mut traces: Vec<String> = std::fs::read_to_string("/proc/self/mountinfo")
        .unwrap()
        .lines()
        .filter(|line| line.contains("phantom-doctor"))
        .map(str::to_owned)
        .collect();
    let cgroups = mounts::read().unwrap().into_iter().filter(|mount| mount.kind == "cgroup2");
    for dir in cgroups.map(|mount| mount.point).chain(["/sys/class/net".into()]) {
        let names = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
        traces.extend(names.filter(|name| {
            name.starts_with(&format!("phantom-doctor-{}-", std::process::id()))
                || name.starts_with("phdoctor")
        }));
    }
    traces
}

#[test]
fn an_examination_agrees_with_other_signs_and_leaves_nothing_behind() {
    let asked = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let seen = Arc::clone(&asked);
    let hooks = Hooks {
        canary: Some(Arc::new(move |path: &Path| {
            seen.store(true, std::sync::atomic::Ordering::SeqCst);
            Ok(format!("{} sang", path.display()))
        })),
        job_control: Some(Arc::new(|_: &Path| Ok(false))),
    };
    let places = here();
    let limit = Duration::from_secs(20);
    let report = examine(&places, &hooks, limit);
    println!("{}", report.to_text(false));
    for check in &report.checks {
        assert!(!check.found.is_empty() && !check.gives.is_empty(), "{check:?}");
        assert_eq!(check.remedy.is_none(), check.state == State::Ok, "{check:?}");
        assert!(!check.found.contains("did not come to an end"), "{check:?}");
    }
    let state = |name: &str| report.checks.iter().find(|it| it.name == name).map(|it| it.state);
    let has_criu = state("CRIU canary").is_some();
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), has_criu);
    if has_criu {
        assert_eq!(state("CRIU job control"), Some(State::Limited));
        assert_eq!(
            state("CRIU") == Some(State::Ok),
            report.criu.is_some_and(|it| it.version >= 40_200)
        );
    }
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP the signs of the kernel: not root");
        return;
    }
    agrees_with_the_kernel(&state);
    assert_eq!(traces(), Vec::<String>::new());
}

fn agrees_with_the_kernel(state: &dyn Fn(&str) -> Option<State>) {
    let exists = |path: &str| Path::new(path).exists();
    let in_lines = |file: &str, word: &str| {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        text.split_whitespace().any(|known| known == word)
    };
    let there = |name: &str| state(name) == Some(State::Ok);
    assert_eq!(there("kernel types (BTF)"), exists("/sys/kernel/btf/vmlinux"));
    assert_eq!(there("time namespaces"), exists("/proc/self/ns/time"));
    // A driver may be a module that nobody has used yet: only its presence is a sign.
    if in_lines("/proc/filesystems", "fuse") && exists("/dev/fuse") {
        assert!(there("FUSE"));
    }
    if !exists("/dev/kvm") {
        assert_eq!(state("KVM"), Some(State::Missing));
    }
    if in_lines("/proc/filesystems", "cgroup2") && there("cgroup v2") {
        assert!(there("freeze and kill"));
    }
    match kernel_config() {
        None => println!("SKIP the signs of the kernel's configuration: it is not shown"),
        Some(config) => {
            let on = |option: &str| config.lines().any(|line| line == format!("{option}=y"));
            assert_eq!(there("soft-dirty"), on("CONFIG_MEM_SOFT_DIRTY"));
            assert_eq!(there("userfaultfd"), on("CONFIG_USERFAULTFD"));
            assert_eq!(there("seccomp"), on("CONFIG_SECCOMP_FILTER"));
            assert_eq!(there("eBPF"), on("CONFIG_BPF_SYSCALL"));
            assert_eq!(there("user namespaces"), on("CONFIG_USER_NS"));
            if on("CONFIG_TUN") && exists("/dev/net/tun") {
                assert!(there("TUN"));
            }
            if on("CONFIG_VETH") {
                assert!(there("veth"));
            }
        }
    }
}

/// The configuration the running kernel was built with, where it or its package shows it.
fn kernel_config() -> Option<String> {
    let release = nix::sys::utsname::uname().ok()?.release().to_string_lossy().into_owned();
    if let Ok(text) = std::fs::read_to_string(format!("/boot/config-{release}")) {
        return Some(text);
    }
    let output =
        std::process::Command::new("gzip").args(["-dc", "/proc/config.gz"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

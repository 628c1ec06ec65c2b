//! What the plan decides, on hosts that are only described.

use phantom_model::{Credentials, Limits, TermSize};

use super::*;
use crate::ids::LOWEST_BASE;
use crate::mountinfo;

const DESKTOP: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 0:2 / /proc rw - proc proc rw
3 1 0:3 / /sys rw - sysfs sysfs rw
4 1 0:4 / /dev rw - devtmpfs udev rw
5 1 0:5 / /run rw - tmpfs tmpfs rw
6 1 0:6 / /tmp rw - tmpfs tmpfs rw
7 1 8:2 / /home rw - btrfs /dev/sda2 rw
8 1 8:3 / /boot rw - ext4 /dev/sda3 rw
9 7 8:4 / /home/u/disk rw - xfs /dev/sdb rw
10 1 0:9 / /var/lib/docker/overlay2/x/merged rw - overlay overlay rw
11 5 0:8 / /run/user/1000/gvfs rw - fuse.gvfsd-fuse g rw
";

fn host(home: Option<&str>, cwd: &str) -> HostView {
    let mounts = mountinfo::parse(DESKTOP.as_bytes()).unwrap();
    HostView {
        id_mappable: mounts.iter().map(|mount| mount.id).collect(),
        mounts,
        has_fuse: true,
        home_dir: home.map(PathBuf::from),
        cwd: cwd.into(),
        hostname: "desk".into(),
        resolver: Some(("/run/systemd/resolve/stub.conf".into(), b"nameserver 192.0.2.1".into())),
        devices: DEVICE_NODES.map(String::from).to_vec(),
    }
}

fn spec() -> AppSpec {
    AppSpec {
        name: "x".into(),
        argv: vec!["vim".into()],
        env: vec!["HOME=/home/u".into(), "XDG_RUNTIME_DIR=/run/user/1000".into()],
        cwd: "/home/u".into(),
        user: Credentials {
            user: "u".into(),
            uid: 1000,
            gid: 1000,
            groups: vec![1000],
            group_names: Vec::new(),
            home_dir: "/home/u".into(),
        },
        limits: Limits::default(),
        term_size: TermSize::default(),
        vo: None,
    }
}

fn binds(plan: &CapsulePlan) -> Vec<(String, bool)> {
    plan.steps
        .iter()
        .filter_map(|step| match step {
            RootStep::Mount { inside, kind: MountKind::Bind { read_only, devices: false, .. } } => {
                Some((inside.to_string(), !read_only))
            }
            _ => None,
        })
        .collect()
}

fn planned(home: Option<&str>, cwd: &str) -> Result<CapsulePlan, Error> {
    plan(&spec(), &host(home, cwd), LOWEST_BASE)
}

#[test]
fn real_file_systems_are_taken_along_and_only_the_users_are_writable() {
    let plan = planned(Some("/home/u"), "/home/u/src").unwrap();
    let expected = [
        ("/", false),
        ("/boot", false),
        ("/home", false),
        ("/home/u", true),
        ("/home/u/disk", true),
    ];
    assert_eq!(binds(&plan), expected.map(|(path, writable)| (path.to_owned(), writable)));
    let keys: std::collections::BTreeSet<_> =
        plan.externals.iter().map(|external| &external.key).collect();
    assert_eq!(keys.len(), plan.externals.len(), "keys are unique");
    // Everything mounted from outside but the root has a key.
    let outside = plan.steps.iter().filter(|step| {
        matches!(step, RootStep::Mount { kind: MountKind::Bind { .. } | MountKind::Console, .. })
    });
    assert_eq!(outside.count() - 1, plan.externals.len());
}

/// A desk in a lab: the home directories lie on a server elsewhere.
const CAMPUS: &str = "\
1 0 8:1 / / rw - ext4 /dev/sda1 rw
2 1 7:1 / /snap/vim ro - squashfs /dev/loop1 ro
7 1 0:40 / /home rw - nfs4 files:/home rw
9 7 8:4 / /home/u/disk rw - xfs /dev/sdb rw
";

fn shown(plan: &CapsulePlan) -> Vec<(String, Shown)> {
    let shown = |step: &RootStep| match step {
        RootStep::Mount { inside, kind: MountKind::Bind { shown, devices: false, .. } } => {
            Some((inside.to_string(), *shown))
        }
        _ => None,
    };
    plan.steps.iter().filter_map(shown).collect()
}

fn campus(id_mappable: &[u32], has_fuse: bool) -> CapsulePlan {
    let host = HostView {
        mounts: mountinfo::parse(CAMPUS.as_bytes()).unwrap(),
        id_mappable: id_mappable.iter().copied().collect(),
        has_fuse,
        ..host(Some("/home/u"), "/home/u/src")
    };
    plan(&spec(), &host, LOWEST_BASE).unwrap()
}

#[test]
fn what_cannot_map_ids_is_served_and_images_are_left_as_they_are() {
    use Shown::{AsIs, Mapped, Served};
    let of = |plan: &CapsulePlan| -> Vec<Shown> {
        let shown = shown(plan);
        let order = ["/", "/snap/vim", "/home", "/home/u", "/home/u/disk"];
        let find = |path: &str| shown.iter().find(|(inside, _)| inside == path).unwrap().1;
        assert_eq!(shown.len(), order.len());
        order.map(find).to_vec()
    };
    let plan = campus(&[1, 9], true);
    assert_eq!(of(&plan), [Mapped, AsIs, Served, Served, Mapped]);
    let [note] = &plan.notes[..] else { panic!("{:?}", plan.notes) };
    assert!(note.starts_with("/home/u (nfs4) cannot map ids"), "{note}");

    // A live USB stick.
    let plan = campus(&[], true);
    assert_eq!(of(&plan), [Served, AsIs, Served, Served, Served]);
    assert_eq!(plan.notes.len(), 1);
    assert!(plan.notes[0].starts_with("/ (ext4) and /home/u (nfs4)"), "{:?}", plan.notes);

    let plan = campus(&[1, 9], false);
    assert_eq!(of(&plan), [Mapped, AsIs, AsIs, AsIs, Mapped]);
    assert!(plan.notes[0].contains("lacks FUSE"), "{:?}", plan.notes);

    assert!(campus(&[1, 2, 7, 9], true).notes.is_empty());
}

#[test]
fn a_working_directory_beside_the_home_is_writable_too() {
    let plan = planned(Some("/home/u"), "/data/work").unwrap();
    assert!(binds(&plan).contains(&("/data/work".to_owned(), true)));
    for place in ["/", "/usr/share", "/home", "/etc"] {
        let plan = planned(Some("/home/u"), place).unwrap();
        assert!(!binds(&plan).contains(&(place.to_owned(), true)), "{place}");
    }
}

#[test]
fn a_home_that_is_a_system_place_is_never_writable() {
    for home in ["/", "/usr/games", "/var/lib/x"] {
        let plan = planned(Some(home), "/usr").unwrap();
        assert!(binds(&plan).iter().all(|(_, writable)| !writable), "{home}");
        assert_eq!(plan.notes.len(), 1);
    }
    assert!(planned(None, "/usr").unwrap().notes.is_empty());
}

#[test]
fn private_places_cannot_be_worked_in() {
    for cwd in ["/tmp", "/tmp/x", "/run/user/1000", "/dev/shm", "relative"] {
        assert!(matches!(planned(Some("/home/u"), cwd), Err(Error::WorkingDirectory { .. })));
    }
}

#[test]
fn steps_come_after_what_they_stand_on() {
    let plan = planned(Some("/home/u"), "/home/u").unwrap();
    for (index, step) in plan.steps.iter().enumerate() {
        let path = step.inside().to_path();
        let is_new = matches!(step, RootStep::Mount { kind: MountKind::Tmpfs { .. }, .. });
        let covered = plan.steps[..index].iter().any(|earlier| {
            let before = earlier.inside().to_path();
            is_new && before != path && before.starts_with(&path)
        });
        assert!(!covered, "{path:?} hides what was made before");
    }
    let folder = |wanted: &str| plan.steps.iter().position(|s| s.inside().0 == wanted.as_bytes());
    assert!(folder("/run/systemd").unwrap() < folder("/run/systemd/resolve").unwrap());
    assert!(folder("/run/systemd/resolve") < folder("/run/systemd/resolve/stub.conf"));
}

#[test]
fn the_run_time_directory_is_the_capsules_own() {
    let plan = planned(Some("/home/u"), "/home/u").unwrap();
    let runtime: Vec<_> =
        plan.env.iter().filter(|text| text.0.starts_with(b"XDG_RUNTIME_DIR")).collect();
    assert_eq!(runtime, [&OsText::from("XDG_RUNTIME_DIR=/run/user/1000")]);
}

#[test]
fn commands_that_cannot_be_are_refused() {
    let mut empty = spec();
    empty.argv.clear();
    assert!(matches!(plan(&empty, &host(None, "/usr"), LOWEST_BASE), Err(Error::NoCommand)));
    let mut nul = spec();
    nul.env.push(OsText(b"A=\0".to_vec()));
    assert!(matches!(plan(&nul, &host(None, "/usr"), LOWEST_BASE), Err(Error::Nul { .. })));
}

use super::*;

/// A folder of this test's user below a place that is root's.
fn folder() -> Option<(tempfile::TempDir, Folder)> {
    if !nix::unistd::geteuid().is_root() {
        println!("SKIP: needs root");
        return None;
    }
    let dir = tempfile::tempdir_in("/run").unwrap();
    let folder = Folder { path: dir.path().join("state"), uid: 12345, gid: 12345 };
    folder.ensure().unwrap();
    Some((dir, folder))
}

fn put(folder: &Folder, name: &str, content: &[u8]) {
    let path = folder.path.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(&path, content).unwrap();
    for path in path.ancestors().take_while(|it| it.starts_with(&folder.path)) {
        folder.own(path).unwrap();
    }
}

fn content(seen: Seen) -> Vec<u8> {
    match seen {
        Seen::Content(packed) => packed,
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_was_packed_is_there_again_and_what_was_there_is_kept_once() {
    let Some((_dir, folder)) = folder() else { return };
    put(&folder, "dump.rdb", b"one");
    put(&folder, "sub/deep/x", &[0; 100_000]);
    fs::set_permissions(folder.path.join("dump.rdb"), fs::Permissions::from_mode(0o640)).unwrap();
    let packed = content(folder.look(&mut None));
    assert_eq!(content(folder.look(&mut None)), packed, "the same files are the same bytes");
    put(&folder, "dump.rdb", b"two");
    fs::write(folder.beside("before"), b"a file").unwrap();
    folder.fill(&packed).unwrap();
    assert_eq!(fs::read(folder.path.join("dump.rdb")).unwrap(), b"one");
    assert_eq!(fs::read(folder.path.join("sub/deep/x")).unwrap().len(), 100_000);
    let found = fs::metadata(folder.path.join("dump.rdb")).unwrap();
    assert_eq!((found.mode() & 0o777, found.uid()), (0o640, 12345));
    assert_eq!(fs::read(folder.beside("before").join("dump.rdb")).unwrap(), b"two");
    assert!(!folder.beside("new").exists());
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    let Some((_dir, folder)) = folder() else { return };
    put(&folder, "x", b"1");
    let mut last = None;
    content(folder.look(&mut last));
    assert_eq!(last, None, "it may change again within the same moment");
    content(folder.look(&mut last));
    let listing = folder.list().unwrap();
    last = Some(listing);
    assert_eq!(folder.look(&mut last), Seen::Same);
    put(&folder, "x", b"2");
    content(folder.look(&mut last));
}

#[test]
fn nothing_is_followed_and_nothing_of_others_is_taken() {
    let Some((dir, folder)) = folder() else { return };
    fs::write(dir.path().join("secret"), b"secret").unwrap();
    put(&folder, "own", b"own");
    std::os::unix::fs::symlink("../secret", folder.path.join("link")).unwrap();
    fs::hard_link(dir.path().join("secret"), folder.path.join("hard")).unwrap();
    nix::unistd::mkfifo(&folder.path.join("pipe"), Mode::S_IRWXU).unwrap();
    std::os::unix::fs::symlink("/etc", folder.path.join("etc")).unwrap();
    let entries = unpack(&content(folder.look(&mut None))).unwrap();
    let paths: Vec<String> = entries.iter().map(|entry| entry.path.to_string()).collect();
    assert_eq!(paths, ["", "own"]);
    assert_eq!(folder.list().unwrap().left_out(), ["etc", "hard", "link", "pipe"]);
}

#[test]
fn what_is_too_large_is_refused_with_words() {
    let Some((_dir, folder)) = folder() else { return };
    let refused = |folder: &Folder| match folder.look(&mut None) {
        Seen::Refused(words) => words,
        other => panic!("{other:?}"),
    };
    let noise: Vec<u8> = (0..60_000).map(|_| rand::random()).collect();
    put(&folder, "noise", &noise);
    assert!(refused(&folder).contains("at most 48 KiB"), "{}", refused(&folder));
    put(&folder, "noise", &vec![0; 5 << 20]);
    assert!(refused(&folder).contains("at most 4096 KiB"), "{}", refused(&folder));
    put(&folder, "noise", b"");
    (0..600).for_each(|number| put(&folder, &format!("many/{number}"), b""));
    assert!(refused(&folder).contains("more than 512 files"), "{}", refused(&folder));
}

#[test]
fn a_folder_that_others_could_exchange_is_refused() {
    let Some((dir, folder)) = folder() else { return };
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let words = format!("{:#}", folder.ensure().unwrap_err());
    assert!(words.contains("others than root may change"), "{words}");
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let other = Folder { uid: 54321, ..folder };
    let words = format!("{:#}", other.ensure().unwrap_err());
    assert!(words.contains("belongs to user 12345"), "{words}");
}

#[test]
fn nothing_is_made_where_others_than_root_could_lead_it() {
    let Some((dir, folder)) = folder() else { return };
    let open = dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    let link = |at: &Path, target: &Path, uid: u32| {
        std::os::unix::fs::symlink(target, at).unwrap();
        std::os::unix::fs::lchown(at, Some(uid), Some(uid)).unwrap();
    };
    // In a place like /tmp, a link of somebody else's to where he may not write himself.
    let sticky = dir.path().join("sticky");
    fs::create_dir(&sticky).unwrap();
    fs::set_permissions(&sticky, fs::Permissions::from_mode(0o1777)).unwrap();
    let inner = dir.path().join("inner");
    fs::create_dir(&inner).unwrap();
    link(&sticky.join("theirs"), &inner, 12345);
    link(&dir.path().join("to-open"), &open, 0);
    link(&dir.path().join("round"), Path::new("round"), 0);
    let packed = content(folder.look(&mut None));
    let cases = [
        ("open/a/b/state", "others than root may change"),
        ("to-open/a/state", "others than root may change"),
        ("sticky/theirs/a/state", "others than root may change"),
        ("inner/../open/a/state", "others than root may change"),
        ("round/state", "too many links"),
    ];
    for (path, words) in cases {
        let folder = Folder { path: dir.path().join(path), ..folder.clone() };
        for refused in [folder.ensure(), folder.fill(&packed)] {
            let said = format!("{:#}", refused.unwrap_err());
            assert!(said.contains(words), "{path}: {said}");
        }
    }
    for empty in [&open, &inner] {
        assert_eq!(fs::read_dir(empty).unwrap().count(), 0, "{}", empty.display());
    }
    // Root's own links are his to make.
    link(&dir.path().join("own"), Path::new("inner/../inner"), 0);
    let folder = Folder { path: dir.path().join("own/new/state"), ..folder };
    folder.ensure().unwrap();
    folder.fill(&packed).unwrap();
    let made = fs::metadata(inner.join("new/state")).unwrap();
    assert_eq!(made.uid(), 12345);
    assert!(inner.join("new/state.before").is_dir());
}

#[test]
fn a_packed_state_of_an_enemy_is_refused() {
    let entry = |path: &str, content: Option<&[u8]>| Entry {
        path: OsText::from(path),
        mode: 0o644,
        content: content.map(<[u8]>::to_vec),
    };
    let root = || entry("", None);
    let refused = |entries: Vec<Entry>| unpack(&pack(&entries).unwrap()).is_err();
    assert!(!refused(vec![root(), entry("a", None), entry("a/b", Some(b"x"))]));
    for path in ["../x", "/etc/x", "a/../x", "a//b", ".", "a/b", "x\0y", "x/"] {
        assert!(refused(vec![root(), entry(path, Some(b"x"))]), "{path}");
    }
    assert!(refused(vec![root(), entry("a", Some(b"x")), entry("a/b", Some(b"x"))]));
    assert!(refused(vec![root(), entry("a", None), entry("a", Some(b"x"))]));
    assert!(refused(vec![entry("a", None)]));
    assert!(refused(vec![]));
    assert!(refused(vec![root(), Entry { mode: 0o4755, ..entry("a", Some(b"x")) }]));
    assert!(unpack(b"no zlib").is_err());
    // Much from little.
    let bomb = pack(&[root(), entry("a", Some(&vec![0; 64 << 20]))]).unwrap();
    assert!(unpack(&bomb).is_err());
}

//! The home's system files: verified, cached, pinned.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use crate::common::{Bind, Options, World, in_own_mounts, names, run};
use phantom_fs::cache::Cache;
use phantom_fs::client::{Client, ClientConfig};
use phantom_model::Epoch;

fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed).collect()
}

fn data_files(cache: &Path) -> Vec<std::path::PathBuf> {
    let data = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".data");
    names(cache).into_iter().filter(data).map(|name| cache.join(name)).collect()
}

/// A second client of the same home and cache, with nothing in memory.
fn another_client(w: &World) -> std::sync::Arc<Client> {
    let way = std::sync::Arc::clone(&w.way);
    let cache = std::sync::Arc::new(Cache::open(&w.cache, 64 << 20).unwrap());
    let config = ClientConfig::new(crate::common::APP, Epoch::FIRST);
    Client::connect(move |_| way.connect(), config, Some(cache)).unwrap()
}

fn read_all(client: &Client, path: &[&str]) -> rustix::io::Result<Vec<u8>> {
    use phantom_fs::client::{Ino, Lookup};
    use phantom_fs::proto::{Name, OpenMode};
    let mut at = Ino::ROOT;
    for name in path {
        match client.lookup(at, &Name::new(name.as_bytes()).unwrap())? {
            Lookup::Found(found) => at = found.ino,
            Lookup::Absent { .. } => return Err(rustix::io::Errno::NOENT),
        }
    }
    let opened = client.open(at, OpenMode { read: true, ..OpenMode::default() })?;
    let data = client.read(opened.handle, 0, opened.attr.size as u32 + 10);
    client.release(opened.handle);
    data
}

#[test]
fn system_files_are_read_only_cached_and_verified() {
    in_own_mounts("system_files", || {
        let (small, large) = (content(1, 5000), content(2, 1_000_000));
        let w = World::new(Options { system: true, ..Options::default() }, |home| {
            fs::write(home.join("system/small"), &small).unwrap();
            fs::write(home.join("system/large"), &large).unwrap();
            fs::write(home.join("system/empty"), "").unwrap();
            fs::write(home.join("mine"), "mine").unwrap();
        });
        let system = w.away.join("system");
        for _ in 0..2 {
            assert_eq!(fs::read(system.join("small")).unwrap(), small);
            assert_eq!(fs::read(system.join("large")).unwrap(), large);
            assert_eq!(fs::read(system.join("empty")).unwrap(), b"");
        }
        assert_eq!(fs::read(w.away.join("mine")).unwrap(), b"mine");
        let error = File::create(system.join("new")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(30), "{error}");
        assert_eq!(fs::remove_file(system.join("small")).unwrap_err().raw_os_error(), Some(30));
        // Both contents are on disk, and the user's file is not.
        let sizes: Vec<_> =
            data_files(&w.cache).iter().map(|f| f.metadata().unwrap().len()).collect();
        assert_eq!(sizes.iter().sum::<u64>(), 1_005_000);
        assert_eq!(read_all(&another_client(&w), &["system", "large"]).unwrap(), large);
    });
}

#[test]
fn a_damaged_cache_is_fetched_again() {
    in_own_mounts("a_damaged_cache", || {
        let large = content(3, 700_000);
        let w = World::new(Options { system: true, ..Options::default() }, |home| {
            fs::write(home.join("system/large"), &large).unwrap();
        });
        assert_eq!(read_all(&w.client, &["system", "large"]).unwrap(), large);
        let data = &data_files(&w.cache)[0];
        let file = File::options().write(true).open(data).unwrap();
        file.write_all_at(b"damage", 300_000).unwrap();
        assert_eq!(read_all(&another_client(&w), &["system", "large"]).unwrap(), large);
        // It was mended, too.
        assert_eq!(fs::read(data).unwrap(), large);
        // Half a file, as a crash may leave it; then a list that says something else.
        file.set_len(200_000).unwrap();
        assert_eq!(read_all(&another_client(&w), &["system", "large"]).unwrap(), large);
        let list = data.with_extension("list");
        let mut bytes = fs::read(&list).unwrap();
        bytes[40] ^= 1;
        fs::write(&list, bytes).unwrap();
        assert_eq!(read_all(&another_client(&w), &["system", "large"]).unwrap(), large);
        fs::write(&list, "nonsense").unwrap();
        assert_eq!(read_all(&another_client(&w), &["system", "large"]).unwrap(), large);
    });
}

#[test]
fn the_cap_of_the_cache_holds() {
    in_own_mounts("the_cap", || {
        const CAP: u64 = 4 << 20;
        let w =
            World::new(Options { system: true, cache_bytes: CAP, ..Options::default() }, |home| {
                for i in 0..12 {
                    fs::write(home.join(format!("system/{i}")), content(i, 900_000)).unwrap();
                }
                fs::write(home.join("system/huge"), content(99, 6 << 20)).unwrap();
            });
        let used = || -> u64 {
            names(&w.cache).iter().map(|f| w.cache.join(f).metadata().unwrap().blocks() * 512).sum()
        };
        for i in 0..12u8 {
            let path = w.away.join(format!("system/{i}"));
            assert_eq!(fs::read(&path).unwrap(), content(i, 900_000));
            assert!(used() <= CAP, "{} of {CAP} after {i}", used());
        }
        // The last ones are still there, the first ones are not.
        let kept = data_files(&w.cache).len();
        assert!((2..=4).contains(&kept), "{kept} entries");
        assert_eq!(fs::read(w.away.join("system/huge")).unwrap(), content(99, 6 << 20));
        assert!(used() <= CAP, "{}", used());
    });
}

#[test]
fn an_upgrade_is_seen_at_the_next_open() {
    in_own_mounts("an_upgrade", || {
        let options = Options {
            system: true,
            client: |config| config.system_ttl = std::time::Duration::from_millis(100),
            ..Options::default()
        };
        let backdoor = tempfile::tempdir().unwrap();
        let mut bind = None;
        let w = World::new(options, |home| {
            fs::write(home.join("system/lib"), content(1, 400_000)).unwrap();
            fs::write(home.join("system/conf"), "one").unwrap();
            // The system as the home's root sees it: writable.
            bind = Some(Bind::new(&home.join("system"), backdoor.path()));
        });
        let (lib, conf) = (w.away.join("system/lib"), w.away.join("system/conf"));
        assert_eq!(fs::read(&lib).unwrap(), content(1, 400_000));
        assert_eq!(fs::read(&conf).unwrap(), b"one");
        let open = File::open(&lib).unwrap();
        // In place, with the same size: no name changes, and yet the next open must see it.
        fs::write(backdoor.path().join("conf"), "two").unwrap();
        assert_eq!(fs::read(&conf).unwrap(), b"two");
        // By rename, as package managers do.
        fs::write(backdoor.path().join("lib.new"), content(2, 300_000)).unwrap();
        fs::rename(backdoor.path().join("lib.new"), backdoor.path().join("lib")).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while fs::read(&lib).unwrap() != content(2, 300_000) {
            assert!(std::time::Instant::now() < deadline, "the old library is still served");
            std::thread::yield_now();
        }
        // Who had it open goes on with what he had.
        let mut old = vec![0; 400_000];
        open.read_exact_at(&mut old, 0).unwrap();
        assert!(old == content(1, 400_000));
    });
}

#[test]
fn pinned_files_outlive_their_names() {
    in_own_mounts("pinned_files", || {
        let backdoor = tempfile::tempdir().unwrap();
        let mut bind = None;
        let w = World::new(Options { system: true, ..Options::default() }, |home| {
            fs::create_dir_all(home.join("system/lib/python")).unwrap();
            fs::write(home.join("system/lib/libc"), content(1, 300_000)).unwrap();
            fs::write(home.join("system/lib/python/module"), content(2, 1000)).unwrap();
            fs::write(home.join("mine"), "mine").unwrap();
            bind = Some(Bind::new(&home.join("system"), backdoor.path()));
        });
        for path in ["system/lib/libc", "system/lib/python/module", "mine"] {
            let fd = File::open(w.home.join(path)).unwrap();
            w.server.pin(format!("/{path}").as_bytes(), fd.into()).unwrap();
        }
        assert!(w.server.pin(b"/no/such/place", File::open("/dev/null").unwrap().into()).is_err());
        let pinned_ino = fs::metadata(w.home.join("system/lib/libc")).unwrap().ino();
        // The upgrade: one replaced, one gone with its directory, one unlinked.
        fs::write(backdoor.path().join("lib/new"), content(9, 100)).unwrap();
        fs::rename(backdoor.path().join("lib/new"), backdoor.path().join("lib/libc")).unwrap();
        fs::remove_dir_all(backdoor.path().join("lib/python")).unwrap();
        fs::remove_file(w.home.join("mine")).unwrap();

        let sent = w.client.prefetch(&[
            b"/system/lib/libc".to_vec(),
            b"/system/lib/python/module".to_vec(),
            b"/mine".to_vec(),
            b"/nothing".to_vec(),
        ]);
        assert_eq!((sent.files, sent.passed_over, sent.failed), (2, 1, 1), "{sent:?}");
        assert_eq!(sent.fetched_bytes, 300_000, "the small one came with its open");
        let libc = w.away.join("system/lib/libc");
        assert_eq!(fs::read(&libc).unwrap(), content(1, 300_000));
        assert_eq!(fs::metadata(&libc).unwrap().ino(), pinned_ino);
        assert_eq!(fs::read(w.away.join("system/lib/python/module")).unwrap(), content(2, 1000));
        assert_eq!(fs::read(w.away.join("mine")).unwrap(), b"mine");
        // Its mapping as CRIU makes it: opened by path, kept while the pins go.
        let mapped = File::open(&libc).unwrap();
        assert_eq!(w.server.unpin_all(), 3);
        let mut bytes = vec![0; 300_000];
        mapped.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == content(1, 300_000));
        assert_eq!(
            read_all(&another_client(&w), &["system", "lib", "libc"]).unwrap(),
            content(9, 100)
        );
    });
}

#[test]
fn a_log_on_the_system_is_no_content_to_cache() {
    in_own_mounts("a_log", || {
        let backdoor = tempfile::tempdir().unwrap();
        let mut bind = None;
        let options = Options {
            system: true,
            server: |config| config.settle = std::time::Duration::from_secs(3600),
            ..Options::default()
        };
        let w = World::new(options, |home| {
            fs::write(home.join("system/log"), "line 1\n").unwrap();
            bind = Some(Bind::new(&home.join("system"), backdoor.path()));
        });
        assert_eq!(fs::read(w.away.join("system/log")).unwrap(), b"line 1\n");
        run(backdoor.path(), "sh", &["-c", "echo line 2 >> log"]);
        assert_eq!(fs::read(w.away.join("system/log")).unwrap(), b"line 1\nline 2\n");
        assert!(data_files(&w.cache).is_empty());
    });
}

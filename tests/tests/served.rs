//! Apps on file systems that cannot map ids: a home directory on somebody else's server, a system on
//! an overlay.

use std::os::unix::fs::MetadataExt;

use anyhow::{Context, ensure};
use phantom_tests::lab::{Key, MOVE, Node, Pair, SOON, Terminal, wait_until};

/// A FUSE mount of ada's own over her home directory, which lets nobody else in, root no more than
/// others: as a file server does that trusts her machine with nothing but her own files.
const STRICT_HOME: &str = "
set -eu
mknod -m 666 /run/fuse c 10 229
mount --bind /run/fuse /dev/fuse
mkdir /home/.files
mv /home/ada /home/.files/ada
mkdir /home/ada
chown 1000:1000 /home/ada
cd /
setpriv --reuid 1000 --regid 1000 --clear-groups \
    bindfs --no-allow-other /home/.files/ada /home/ada
! ls /home/ada
";

/// Keeps `log` open and adds a line to it, and makes a new file, each time it is asked.
const WRITER: &str = "
import os, sys
log = open('log', 'a')
def put(word):
    print(word, file=log, flush=True)
    with open('on-' + word, 'w') as new:
        new.write(word)
    return [os.stat(p).st_uid for p in ('log', 'on-' + word, '.', '/etc/passwd')]
print('rea' + 'dy', flush=True)
for word in sys.stdin:
    print('put', put(word.strip()), flush=True)
";

#[test]
fn a_home_that_lets_nobody_else_in_is_written_at_home_and_away() -> anyhow::Result<()> {
    Pair::scenario("a_home_that_lets_nobody_else_in_is_written_at_home_and_away", |pair| {
        pair.home().enter(&["sh", "-c", STRICT_HOME])?;
        let args = ["run", "--name", "writer", "--", "/usr/bin/python3", "-c", WRITER];
        let mut writer = pair.home().terminal(&args)?;
        writer.expect("/home/ada (fuse) cannot map ids", SOON)?;
        writer.expect("ready", SOON)?;
        // What is really there, beside the mount.
        let files = pair.home().home_dir().with_file_name(".files").join("ada");
        let put = |writer: &mut Terminal, word: &str| -> anyhow::Result<()> {
            writer.type_line(word)?;
            writer.expect("put [1000, 1000, 1000, 0]", MOVE)?;
            let new = files.join(format!("on-{word}"));
            ensure!(std::fs::read_to_string(&new)? == word, "what was written");
            let meta = std::fs::metadata(&new)?;
            ensure!((meta.uid(), meta.gid()) == (1000, 1000), "whose it is");
            Ok(())
        };
        put(&mut writer, "first")?;
        let explained = pair.home().phantom(true, &["explain", "writer"])?;
        ensure!(explained.stdout.contains("cannot map ids"), "{explained:?}");
        for (host, word) in [("cellar", "second"), ("attic", "third"), ("cellar", "fourth")] {
            pair.migrate("writer", host).with_context(|| format!("to {host}"))?;
            put(&mut writer, word).with_context(|| format!("on {host}"))?;
        }
        pair.migrate("writer", "attic")?;
        let log = std::fs::read_to_string(files.join("log"))?;
        ensure!(log == "first\nsecond\nthird\nfourth\n", "{log:?}");
        writer.press(Key::Ctrl('d'))?;
        ensure!(writer.wait(SOON)? == 0, "it ended badly");
        wait_until("the end of all that served it", SOON, || {
            let left = pair.home().processes_with("serve-files").len();
            let mounts = pair.home().enter(&["cat", "/proc/self/mountinfo"])?.stdout;
            Ok(left == 0 && !mounts.contains("phantom/apps"))
        })
    })
}

/// Says whose the system's files are and what of them may be touched, and imports what it is told.
const VIEWER: &str = "
import importlib, os, sys
print('rea' + 'dy', flush=True)
for word in sys.stdin:
    module = importlib.import_module(word.strip())
    may = [os.access('/etc/passwd', os.R_OK), os.access('/etc/shadow', os.R_OK)]
    print('sees', os.stat('/etc/passwd').st_uid, os.getuid(), may, flush=True)
    print('has', module.__name__, 'bob' in open('/etc/passwd').read(), flush=True)
";

#[test]
fn a_system_on_an_overlay_is_seen_as_it_is_and_its_apps_move() -> anyhow::Result<()> {
    Pair::scenario("a_system_on_an_overlay_is_seen_as_it_is_and_its_apps_move", |pair| {
        // bob's node has such a root if it has one of its own at all.
        let root = pair.away().enter(&["stat", "-f", "-c", "%T", "/"])?.stdout;
        if root.trim() != "overlayfs" {
            println!("SKIP a_system_on_an_overlay: the second node has no root of its own");
            return Ok(());
        }
        let args = ["run", "--name", "viewer", "--", "/usr/bin/python3", "-c", VIEWER];
        let mut viewer = pair.away().terminal(&args)?;
        viewer.expect("/ (overlay) cannot map ids", SOON)?;
        viewer.expect("ready", SOON)?;
        for (host, late) in [("", "decimal"), ("attic", "uuid"), ("cellar", "sqlite3")] {
            if !host.is_empty() {
                let output = pair.away().phantom(true, &["migrate", "viewer", host])?;
                ensure!(output.code == 0, "to {host}: {}", output.stderr);
            }
            viewer.type_line(late)?;
            viewer.expect("sees 0 1500 [True, False]", MOVE).with_context(|| host.to_owned())?;
            viewer.expect(&format!("has {late} True"), MOVE).with_context(|| host.to_owned())?;
        }
        viewer.press(Key::Ctrl('d'))?;
        ensure!(viewer.wait(SOON)? == 0, "it ended badly");
        Ok(())
    })
}

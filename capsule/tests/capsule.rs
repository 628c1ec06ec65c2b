//! Real capsules on this kernel. Needs root.

mod common;

use std::fs;
use std::os::unix::fs::MetadataExt;

use common::Home;

macro_rules! needs_root {
    ($name:literal) => {
        if let Some(reason) = common::missing() {
            println!("SKIP {}: {reason}", $name);
            return;
        }
    };
}

#[test]
fn runs_as_the_user_and_writes_his_files() {
    needs_root!("runs_as_the_user_and_writes_his_files");
    let home = Home::new();
    let app = home.sh("id -u; id -g; id -G; pwd; echo data > made; cat /proc/self/status");
    let base = app.started.capsule.ids.base;
    let (output, code) = app.finish();
    assert_eq!(code, 0, "{output}");
    let lines: Vec<&str> = output.lines().collect();
    assert_eq!(lines[..3], ["1000", "1000", "1000 27"], "{output}");
    assert_eq!(lines[3], home.path().to_str().unwrap());
    for line in [
        "CapEff:\t0000000000000000",
        "CapBnd:\t0000000000000000",
        "NoNewPrivs:\t0",
    ] {
        assert!(output.contains(line), "{output}");
    }
    let made = fs::metadata(home.path().join("made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (1000, 1000), "base {base}");
}

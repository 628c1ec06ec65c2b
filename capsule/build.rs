//! Builds the capsule's init: a static program of a few KB without the standard library, which the
//! library embeds and every capsule gets on its private tmpfs.

use std::env;
use std::path::PathBuf;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=src/init");
    println!("cargo:rerun-if-changed=build.rs");
    let var = |name: &str| env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name}"));
    let out = PathBuf::from(var("OUT_DIR")).join("init");
    let mut rustc = Command::new(var("RUSTC"));
    rustc
        .args(["--crate-name", "phantom_init", "--edition", "2024", "--crate-type", "bin"])
        .args(["-C", "panic=abort", "-C", "opt-level=s", "-C", "codegen-units=1"])
        .args(["-C", "debuginfo=0", "-C", "strip=symbols", "-C", "relocation-model=static"])
        .args(["-C", "target-feature=+crt-static", "-C", "overflow-checks=off"])
        .args(["-C", "link-arg=-nostartfiles", "-C", "link-arg=-nostdlib"])
        .args(["-C", "link-arg=-static", "-C", "link-arg=-Wl,--build-id=none"])
        .args(["-C", "link-arg=-Wl,-z,noexecstack", "-C", "link-arg=-Wl,--gc-sections"])
        .arg("--target")
        .arg(var("TARGET"))
        .arg("-o")
        .arg(&out)
        .arg("src/init/main.rs");
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        let mut arg = std::ffi::OsString::from("linker=");
        arg.push(linker);
        rustc.arg("-C").arg(arg);
    }
    let status = rustc.status().expect("rustc starts");
    assert!(status.success(), "the capsule's init (src/init/main.rs) did not build: {status}");
}

//! Compiles the kernel programs with clang.

use std::path::PathBuf;
use std::{env, process};

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/bpf/monitor.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed=src/bpf");
    println!("cargo:rerun-if-env-changed=CLANG");
    let out_dir = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    let mut builder = SkeletonBuilder::new();
    builder.source(SOURCE).obj(PathBuf::from(out_dir).join("monitor.bpf.o")).clang_args([
        "-mcpu=v3",
        "-Wall",
        "-Wextra",
        "-Wno-unused-parameter",
        "-Werror",
    ]);
    if let Some(clang) = env::var_os("CLANG") {
        builder.clang(clang);
    }
    if let Err(error) = builder.build() {
        eprintln!("cannot compile the kernel programs ({SOURCE}); is clang installed? {error:?}");
        process::exit(1);
    }
}

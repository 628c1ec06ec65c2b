//! Real capsules on this kernel: what an app sees, what it may do, what is left behind. As root.

mod app;
mod jobs;
mod lifecycle;
mod network;
mod return_home;
mod view;

/// Ends a test with a word where real capsules cannot be made.
#[macro_export]
macro_rules! needs_root {
    ($name:literal) => {
        if !nix::unistd::geteuid().is_root() {
            println!("SKIP {}: needs root", $name);
            return;
        }
    };
}

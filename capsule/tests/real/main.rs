//! Real capsules on this kernel: what an app sees, what it may do, what is left behind. As root.

use std::sync::OnceLock;

use phantom_capsule::ids::IdMaps;

mod app;
mod jobs;
mod lifecycle;
mod network;
mod return_home;
mod view;

/// Why capsules cannot be made here, if so.
fn obstacle() -> Option<String> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    let look = || {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root".to_owned());
        }
        let user = app::Home::new().spec(&["true"]).user;
        let ids = IdMaps::new(app::id_base(), &user).ok()?;
        phantom_capsule::os::spawn::id_namespace(&ids).err().map(|error| error.to_string())
    };
    OBSTACLE.get_or_init(look).clone()
}

/// Ends a test with a word where real capsules cannot be made.
#[macro_export]
macro_rules! needs_root {
    ($name:literal) => {
        if let Some(reason) = $crate::obstacle() {
            println!("SKIP {}: {reason}", $name);
            return;
        }
    };
}

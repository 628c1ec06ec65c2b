//! Which modules of a Debian kernel a desktop's initrd loads, and in which order.

use anyhow::{Context, Result};

/// What a desktop must have before it can mount its root and speak with its agent.
pub const NEEDED: [&str; 6] =
    ["virtio_pci", "virtio_console", "virtio_rng", "virtio_blk", "virtio_net", "ext4"];

/// Paths of the module files to load, below the kernel's folder of modules, each after those it
/// depends on. `builtin` is the kernel's `modules.builtin`, `dep` its `modules.dep`.
pub fn order<'a>(needed: &[&str], builtin: &str, dep: &'a str) -> Result<Vec<&'a str>> {
    let mut order: Vec<&str> = Vec::new();
    for &module in needed {
        if builtin.lines().any(|path| name(path) == module) {
            continue;
        }
        let (path, depends) = dep
            .lines()
            .filter_map(|line| line.split_once(':'))
            .find(|(path, _)| name(path) == module)
            .with_context(|| format!("this kernel has no module {module}"))?;
        // modules.dep names what is to be loaded first last.
        for path in depends.split_whitespace().rev().chain([path]) {
            if !order.contains(&path) {
                order.push(path);
            }
        }
    }
    Ok(order)
}

/// What the initrd calls the module at `path` when it is the `place`th to be loaded.
pub fn file_name(place: usize, path: &str) -> String {
    format!("{place:02}-{}.ko", stem(path))
}

/// The module's name in the kernel, where `-` and `_` are one.
fn name(path: &str) -> String {
    stem(path).replace('-', "_")
}

fn stem(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.split_once(".ko").map_or(file, |(stem, _)| stem)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUILTIN: &str = "kernel/fs/ext4/ext4.ko\nkernel/drivers/char/virtio_console.ko\n";
    const DEP: &str = "kernel/net/core/failover.ko.xz:\n\
        kernel/drivers/net/net_failover.ko.xz: kernel/net/core/failover.ko.xz\n\
        kernel/drivers/char/hw_random/virtio-rng.ko.xz:\n\
        kernel/drivers/net/virtio_net.ko.xz: kernel/drivers/net/net_failover.ko.xz \
        kernel/net/core/failover.ko.xz\n";

    #[test]
    fn dependencies_come_first_and_once() {
        let needed = ["ext4", "virtio_net", "virtio_rng", "net_failover", "virtio_console"];
        let order = order(&needed, BUILTIN, DEP).unwrap();
        let names: Vec<_> =
            order.iter().enumerate().map(|(place, path)| file_name(place, path)).collect();
        assert_eq!(
            names,
            ["00-failover.ko", "01-net_failover.ko", "02-virtio_net.ko", "03-virtio-rng.ko"]
        );
    }

    #[test]
    fn a_kernel_without_a_module_is_refused() {
        let error = order(&["virtio_blk"], BUILTIN, DEP).unwrap_err();
        assert!(error.to_string().contains("virtio_blk"), "{error}");
        assert!(order(&["virtio"], BUILTIN, DEP).is_err(), "a part of a name is no name");
    }
}

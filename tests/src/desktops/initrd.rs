//! What a desktop's kernel starts with: modules, the agent, and a script that mounts the root.

use std::io::{Read, Write};
use std::path::Path;

use anyhow::Context;
use cpio::newc::{Builder, trailer};

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

/// The script. What goes wrong is said on the console, and ends the machine.
pub const SCRIPT: &str = r#"#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for module in /modules/*.ko; do $b insmod $module || echo "phantom: cannot load $module"; done
$b mount -t ext4 /dev/vda /root || { echo "phantom: no root"; exit 1; }
for place in proc sys dev; do $b mount -o move /$place /root/$place; done
$b mount -t tmpfs -o mode=755 run /root/run
$b cp /agent /root/run/desktop-agent
case "$($b cat /root/proc/cmdline)" in
*phantom.init=systemd*)
    units=/root/run/systemd/system
    $b mkdir -p $units/multi-user.target.wants
    $b printf '%s\n' '[Unit]' 'Description=Agent of a test desktop' '[Service]' \
        'ExecStart=/run/desktop-agent' 'KillMode=process' 'StandardOutput=kmsg' \
        > $units/desktop-agent.service
    $b ln -s ../desktop-agent.service $units/multi-user.target.wants/
    exec $b switch_root /root /sbin/init ;;
*)
    exec $b switch_root /root /run/desktop-agent ;;
esac
"#;

/// Writes an initrd of the image's busybox and modules and this agent.
pub fn write(image: &Path, agent: &Path, to: &mut impl Write) -> anyhow::Result<()> {
    let mut packer = Packer { to, number: 0 };
    for folder in ["bin", "modules", "proc", "sys", "dev", "root"] {
        packer.add(folder, FOLDER, &[])?;
    }
    packer.add("init", PROGRAM, SCRIPT.as_bytes())?;
    packer.add_file("bin/busybox", &image.join("busybox"))?;
    packer.add_file("agent", agent)?;
    let modules = image.join("modules");
    let mut names: Vec<_> = std::fs::read_dir(&modules)
        .with_context(|| format!("reading {}", modules.display()))?
        .map(|entry| Ok(entry?.file_name()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    for name in names {
        let path = modules.join(&name);
        packer.add_file(&format!("modules/{}", name.display()), &path)?;
    }
    trailer(packer.to).context("ending the initrd")?;
    Ok(())
}

struct Packer<'a, W: Write> {
    to: &'a mut W,
    number: u32,
}

impl<W: Write> Packer<'_, W> {
    fn add_file(&mut self, name: &str, path: &Path) -> anyhow::Result<()> {
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|mut file| file.read_to_end(&mut bytes))
            .with_context(|| format!("reading {}", path.display()))?;
        self.add(name, PROGRAM, &bytes)
    }

    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) -> anyhow::Result<()> {
        self.number += 1;
        let builder = Builder::new(name).ino(self.number).mode(mode).nlink(1);
        let size = u32::try_from(bytes.len()).with_context(|| format!("{name} is too large"))?;
        let mut file = builder.write(&mut *self.to, size);
        file.write_all(bytes).and_then(|()| file.finish().map(drop)).context("packing the initrd")
    }
}

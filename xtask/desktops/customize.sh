#!/bin/sh
# Makes a fresh Debian root that of a test desktop. mmdebstrap runs this with the root's path when
# all packages are in; apt and the network still work inside.
set -eu
root=$1

# The kernel is unpacked, not installed: its package would bring initramfs-tools and make an
# initrd, and the desktops bring their own.
image=$(chroot "$root" apt-cache depends linux-image-cloud-amd64 |
    sed -n 's/^ *Depends: \(linux-image-.*\)$/\1/p')
mkdir "$root/kernel"
chroot "$root" sh -euc 'cd /kernel; apt-get -q download "$1"; dpkg -x ./*.deb unpacked' - "$image"
cp -a "$root/kernel/unpacked/boot/." "$root/boot/"
for modules in "$root/kernel/unpacked/usr/lib/modules" "$root/kernel/unpacked/lib/modules"; do
    if [ -d "$modules" ]; then cp -a "$modules" "$root/usr/lib/"; fi
done
rm -rf "$root/kernel"
chroot "$root" depmod -a "$(ls "$root/usr/lib/modules")"

# Nothing of the machine this is made on.
rm -f "$root/etc/hostname" "$root/etc/resolv.conf" "$root/var/lib/dbus/machine-id"
: >"$root/etc/resolv.conf"
# Empty, not missing: a new id at each boot, and no first boot with its presets.
: >"$root/etc/machine-id"
: >"$root/etc/fstab"
chroot "$root" passwd -q -d root

# What a machine that is thrown away does not need; without udev, no terminal's unit ever starts.
for unit in \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
    e2scrub_reap.service fstrim.timer getty-static.service getty@tty1.service \
    serial-getty@ttyS0.service systemd-logind.service systemd-networkd-wait-online.service \
    systemd-pstore.service systemd-timesyncd.service; do
    ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
# Caches are as new as /usr: systemd need not make them at the first boot.
touch -r "$root/usr" "$root/etc/.updated" "$root/var/.updated"

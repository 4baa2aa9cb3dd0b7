#!/bin/sh
# Runs inside a new image, whatever it was made from: turns a Debian root file system into a bare server.
set -eu
cp -a /tmp/rootfs/. /
chown -R root:root /etc/sudoers.d /etc/systemd/system
chmod 0440 /etc/sudoers.d/admin
rm -rf /tmp/rootfs /tmp/finish.sh

# One ordinary user with sudo, and root; both by key alone (the keys come with the host).
useradd --create-home --shell /bin/bash admin
for home in /root /home/admin; do install -d -m 0700 "$home/.ssh"; done
chown admin: /home/admin/.ssh

# Every host makes its own identity at its first boot.
rm -f /etc/ssh/ssh_host_*_key*
: > /etc/machine-id

systemctl enable ssh.service torchfleet-boot-id.service torchfleet-ssh-keys.service
# Timers that take apt's lock at random, and what a container has no hardware for.
systemctl mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
    getty.target console-getty.service systemd-logind-varlink.socket

# Debian 13's installers leave deb822 sources, Debian 12's the one-line format.
if grep -q '^VERSION_CODENAME=trixie' /etc/os-release && [ -s /etc/apt/sources.list ]; then
    python3 - <<'PYTHON'
from pathlib import Path

old = Path("/etc/apt/sources.list")
stanzas = {}
for _, uri, suite, *components in (line.split() for line in old.read_text().splitlines() if line.startswith("deb ")):
    stanzas.setdefault((uri, " ".join(components)), []).append(suite)
Path("/etc/apt/sources.list.d/debian.sources").write_text("\n".join(
    f"Types: deb\nURIs: {uri}\nSuites: {' '.join(suites)}\nComponents: {components}\n"
    "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
    for (uri, components), suites in stanzas.items()
))
old.unlink()
PYTHON
fi
find /var/lib/apt/lists /var/cache/apt -type f -delete
rm -rf /var/log/apt /var/log/dpkg.log

"""What the packages of several shaped systems have in common."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).resolve().parent
NOUVEAU = "blacklist nouveau\nalias nouveau off\n"
# Like the real daemon it does not start without a driver.
DAEMON = """\
#!/bin/sh
[ -e /proc/driver/nvidia/version ] || { echo "nvidia-persistenced: no NVIDIA driver is loaded" >&2; exit 1; }
exec sleep infinity
"""
UNIT = """\
[Unit]
Description=NVIDIA Persistence Daemon (shaped)

[Service]
ExecStart=/usr/bin/nvidia-persistenced

[Install]
WantedBy=multi-user.target
"""
PERSISTENCED: dict[str, bytes | str] = {
    "usr/bin/nvidia-persistenced": DAEMON,
    "usr/lib/systemd/system/nvidia-persistenced.service": UNIT,
}
DKMS_FILES: dict[str, bytes | str] = {
    "usr/sbin/dkms": (HERE / "dkms.py").read_text(),
    "usr/lib/shaped/module_file.py": (HERE / "module_file.py").read_text(),
}
# The initramfs of a shaped kernel is modprobe's configuration, as a real one would carry it.
INITRAMFS = """\
#!/bin/sh
for image in /boot/vmlinuz-*; do
    kernel=${image#/boot/vmlinuz-}
    echo "{tool}: Generating {file}"
    cat /etc/modprobe.d/*.conf /usr/lib/modprobe.d/*.conf > "{file}" 2>/dev/null || :
done
"""


def update_initramfs() -> dict[str, bytes | str]:
    """Return the tool of Debian and Ubuntu."""
    text = INITRAMFS.replace("{tool}", "update-initramfs").replace("{file}", "/boot/initrd.img-$kernel")
    return {"usr/sbin/update-initramfs": text}


def dracut(image: str) -> dict[str, bytes | str]:
    """Return the tool of the others."""
    text = INITRAMFS.replace("{tool}", "dracut").replace("{file}", f"/boot/{image}")
    return {"usr/bin/dracut": text}


def dkms_source(name: str, version: str, flavour: str) -> tuple[dict[str, bytes | str], dict[str, str]]:
    """Return the source of a module, and the scripts that have it built and taken away."""
    source = f"nvidia-{'open-' if flavour == 'open' else ''}{version}"
    conf = f'PACKAGE_NAME="{name}"\nPACKAGE_VERSION="{version}"\nFLAVOUR="{flavour}"\nAUTOINSTALL="yes"\n'
    build = f"dkms add {source}\ndkms install {name}/{version}\n"
    gone = f"dkms remove {name}/{version} --all\n"
    return {f"usr/src/{source}/dkms.conf": conf}, {"postinst": build, "prerm": gone}

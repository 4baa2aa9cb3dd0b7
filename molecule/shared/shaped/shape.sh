#!/bin/sh
# Runs inside a new image: makes Debian look like another system, as far as a role that installs a driver looks.
set -eu
ln -s www /srv/shaped/served
systemctl enable torchfleet-shaped.service torchfleet-sim.service
rm -f /etc/debian_version /etc/apt/sources.list /etc/apt/sources.list.d/*

case $1 in
ubuntu2404)
    cat > /etc/os-release <<'TEXT'
PRETTY_NAME="Ubuntu 24.04 LTS (shaped, not real: Debian underneath)"
NAME="Ubuntu"
VERSION_ID="24.04"
VERSION="24.04 LTS (Noble Numbat)"
VERSION_CODENAME=noble
ID=ubuntu
ID_LIKE=debian
UBUNTU_CODENAME=noble
TEXT
    printf 'DISTRIB_ID=Ubuntu\nDISTRIB_RELEASE=24.04\nDISTRIB_CODENAME=noble\nDISTRIB_DESCRIPTION="Ubuntu 24.04 LTS"\n' \
        > /etc/lsb-release
    echo trixie/sid > /etc/debian_version
    install -m 0644 /srv/shaped/keys/ubuntu-archive-keyring.gpg /usr/share/keyrings/ubuntu-archive-keyring.gpg
    cat > /etc/apt/sources.list.d/ubuntu.sources <<'TEXT'
Types: deb
URIs: http://127.0.0.1/ubuntu/
Suites: noble noble-updates noble-security
Components: main universe
Signed-By: /usr/share/keyrings/ubuntu-archive-keyring.gpg
TEXT
    dpkg --install /srv/shaped/installed/*.deb
    ;;
rocky9)
    cat > /etc/os-release <<'TEXT'
NAME="Rocky Linux"
VERSION="9.7 (Blue Onyx)"
ID="rocky"
ID_LIKE="rhel centos fedora"
VERSION_ID="9.7"
PLATFORM_ID="platform:el9"
PRETTY_NAME="Rocky Linux 9.7 (shaped, not real: Debian underneath)"
TEXT
    echo 'Rocky Linux release 9.7 (Blue Onyx)' > /etc/redhat-release
    ln -s redhat-release /etc/system-release
    mkdir -p /etc/rpm /etc/dnf/vars /etc/yum.repos.d /etc/pki/rpm-gpg
    echo '%_dbpath /var/lib/rpm' > /etc/rpm/macros
    echo 9 > /etc/dnf/vars/releasever
    printf '[main]\ngpgcheck=1\ninstallonly_limit=3\nclean_requirements_on_remove=True\nbest=True\nskip_if_unavailable=False\n' \
        > /etc/dnf/dnf.conf
    echo 'module_platform_id=platform:el9' >> /etc/dnf/dnf.conf
    install -m 0644 /srv/shaped/keys/RPM-GPG-KEY-Rocky-9 /etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9
    cat > /etc/yum.repos.d/rocky.repo <<'TEXT'
[baseos]
name=Rocky Linux 9 - BaseOS (shaped)
baseurl=http://127.0.0.1/rocky/9/BaseOS/x86_64/os
gpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9
TEXT
    # The store of certificates of the family: p11-kit's tool is Debian's under another name here.
    mkdir -p /etc/pki/ca-trust/source/anchors /etc/pki/tls/certs
    cat > /usr/bin/update-ca-trust <<'TEXT'
#!/bin/sh
# Shaped: Debian's own bundle and the anchors, where the family's programs look.
cat /etc/ssl/certs/ca-certificates.crt /etc/pki/ca-trust/source/anchors/* > /etc/pki/tls/certs/ca-bundle.crt 2>/dev/null
TEXT
    chmod 0755 /usr/bin/update-ca-trust
    update-ca-trust || :
    # A plugin of Debian's package that a server does not have switched on.
    sed -i 's/^enabled.*/enabled = false/' /etc/dnf/plugins/local.conf
    rpm --import /etc/pki/rpm-gpg/RPM-GPG-KEY-Rocky-9
    dnf -y -q --nogpgcheck --disablerepo='*' install /srv/shaped/installed/*.rpm
    rm -rf /var/cache/dnf /var/log/dnf*
    # apt is Debian's own: nothing may take this host for a Debian one.
    rm -f /usr/bin/apt /usr/bin/apt-get /usr/bin/apt-cache
    ;;
esac
rm -rf /srv/shaped/installed /srv/shaped/keys "$0"

#!/bin/bash
# Runs inside a container of the base image: links the base prefix with conda itself, from the channel.
# stdin: tar with bootstrap/, channel/, base.py, relocate.py; stdout: the base prefix as tar.gz.
# Environment: PLACEHOLDER, SPECS.
set -euo pipefail
exec 3>&1 1>&2
work=/work
mkdir $work
cd $work
tar -x
bootstrap/bin/python -I -B base.py
tar -C /torchfleet-base --sort=name --mtime=@1721865600 --owner=0 --group=0 --numeric-owner -cf - . | gzip -6n >&3

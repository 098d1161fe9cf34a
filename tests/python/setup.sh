#!/bin/sh
# Makes the virtual environment of the Python peers: setup.sh DIR. Does nothing where DIR holds it already.
# Prints the interpreter's path. Called by the tests under a lock; may be called by hand.
set -eu
dir=$1
stamp="$dir/ready-2"
if [ ! -e "$stamp" ]; then
    rm -rf "$dir"
    python3 -m venv "$dir"
    "$dir/bin/python" -m pip install --quiet --disable-pip-version-check \
        pyas2lib==1.4.4 oscrypto==1.3.0 asn1crypto==1.5.1 pyOpenSSL==26.4.0 paramiko==5.1.0 >&2
    # oscrypto 1.3.0 wants one-digit patch numbers of OpenSSL and does not load on 3.0.10 and later.
    for file in "$dir"/lib/python3*/site-packages/oscrypto/_openssl/_libcrypto_cffi.py \
        "$dir"/lib/python3*/site-packages/oscrypto/_openssl/_libcrypto_ctypes.py; do
        python3 - "$file" <<'PYTHON'
import pathlib, sys
file = pathlib.Path(sys.argv[1])
old, new = r"(\\d\\.\\d\\.\\d[a-z]*)", r"(\\d+\\.\\d+\\.\\d+[a-z]*)"
text = file.read_text()
assert old in text or new in text, f"the version pattern is not where it was: {file}"
file.write_text(text.replace(old, new))
PYTHON
    done
    "$dir/bin/python" -c 'import pyas2lib, paramiko'
    : > "$stamp"
fi
echo "$dir/bin/python"

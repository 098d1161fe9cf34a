#!/bin/sh
# Fetches the other products from their package registries: setup.sh DIR. Does nothing where DIR holds them already.
set -eu
dir=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir"
"$here/../python/setup.sh" "$dir/python" >/dev/null

# libas2 0.8.2 cannot sign with the newer pkijs and asn1js that its version ranges allow by now.
if [ ! -e "$dir/node/ready-1" ]; then
    rm -rf "$dir/node"
    mkdir -p "$dir/node"
    (cd "$dir/node" && npm init -y >/dev/null 2>&1 &&
        npm install --silent --no-audit --no-fund libas2@0.8.2 pkijs@2.1.90 asn1js@2.0.26 >&2)
    : >"$dir/node/ready-1"
fi

# OpenAS2 2.10.1 is the newest server on Maven Central (3.x and 4.x are released as archives only).
if [ ! -e "$dir/openas2/ready-1" ]; then
    rm -rf "$dir/openas2"
    mkdir -p "$dir/openas2"
    mvn --quiet --batch-mode -f "$here/pom.xml" -Dmaven.repo.local="$dir/maven" \
        org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DincludeScope=runtime -DoutputDirectory="$dir/openas2" >&2
    : >"$dir/openas2/ready-1"
fi

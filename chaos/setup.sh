#!/usr/bin/env bash
# Installs what a command needs when it is missing and this user may; else says exactly what to install.
# Usage: chaos/setup.sh drill|verify
set -euo pipefail

# tool:package; the tool's presence decides, so nothing is installed twice.
drill_tools=(ip:iproute2 nft:nftables unshare:util-linux cc:gcc)
verify_tools=(sipp:sip-tester kamailio:kamailio)

case "${1:-}" in
drill) wanted=("${drill_tools[@]}") ;;
verify) wanted=("${drill_tools[@]}" "${verify_tools[@]}") ;;
*)
    echo "usage: $0 drill|verify" >&2
    exit 64
    ;;
esac

# Debian keeps system tools out of an ordinary user's PATH.
export PATH="$PATH:/usr/sbin:/sbin"

missing=()
for entry in "${wanted[@]}"; do
    command -v "${entry%%:*}" >/dev/null || missing+=("${entry##*:}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

install=(apt-get install -y --no-install-recommends "${missing[@]}")
if ! command -v apt-get >/dev/null; then
    echo "please install: ${missing[*]} (Debian package names)" >&2
    exit 1
fi
if [ "$(id -u)" -eq 0 ]; then
    runner=()
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    runner=(sudo -n)
else
    echo "please run as root: ${install[*]}" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Services that a package brings must not start: the tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' | "${runner[@]}" tee "$policy" >/dev/null
    "${runner[@]}" chmod +x "$policy"
    trap '"${runner[@]}" rm -f "$policy"' EXIT
fi
echo "installing: ${missing[*]}"
"${runner[@]}" apt-get update -qq
"${runner[@]}" "${install[@]}" -qq >/dev/null

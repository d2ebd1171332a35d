#!/usr/bin/env bash
# Everything that checks the project, in the order in which it fails fastest. Read-only: it changes no source.
# Each step prints its time; the last line says how many passed.
set -uo pipefail
cd "$(dirname "$0")/.."

export CARGO_TERM_COLOR=never RUSTDOCFLAGS="-D warnings"
export PATH="$PATH:/usr/sbin:/sbin"
passed=0 failed=0

step() { # name, command...
    local name=$1 start=$SECONDS
    shift
    echo "==> $name: $*"
    if "$@"; then
        passed=$((passed + 1))
        echo "    $name: ok, $((SECONDS - start)) s"
    else
        failed=$((failed + 1))
        echo "    $name: FAILED, $((SECONDS - start)) s"
    fi
}

cores_are_pure() { # A core's manifest lists no runtime, no socket, no cloud, and no other core.
    local core tree forbidden
    for core in tandem-sip tandem-media tandem-replication-core tandem-failover-core tandem-engine tandem-simulator; do
        tree=$(cargo tree --locked --offline -q -p "$core" -e normal --depth 1 --prefix none | tail -n +2) || return 1
        forbidden=$(grep -E '^(tokio|socket2|nix|mio|quinn|rustls|aws-|hyper)' <<<"$tree")
        case $core in
        # Where the cores meet.
        tandem-engine | tandem-simulator) ;;
        *) forbidden+=$(grep '^tandem-' <<<"$tree") ;;
        esac
        if [ -n "$forbidden" ]; then
            echo "$core depends on: $forbidden"
            return 1
        fi
    done
}

step format cargo fmt --all --check
step fetch cargo fetch --locked
step cores cores_are_pure
step lints cargo clippy --workspace --all-targets --locked -q -- -D warnings
step docs cargo doc --workspace --no-deps --locked -q
# The drills and the tests with real peers run the program as it ships.
step release cargo build --release --locked -q -p tandem -p tandem-chaos
export TANDEM_BINARY=$PWD/target/release/tandem
step tests cargo test --workspace --locked -q --no-fail-fast
# Random schedules and every directed scenario in virtual time; then each safeguard taken away, and missed.
step simulate target/release/tandem-chaos simulate --seeds 300
step safeguards cargo test --release --locked -q -p tandem-simulator --features sabotage --test safeguards
# What must hold on any machine: calls, records, one owner. How short the gap is, is `make drill`'s matter: a
# shared machine that stalls for a moment is no finding here.
for fabric in ec2 lan; do
    for fault in kill-host kill-worker partition; do
        step "drill-$fault-$fabric" target/release/tandem-chaos drill "$fault" --fabric "$fabric" --calls 20 \
            --gap-limit-ms 5000
    done
done

echo
echo "verify: $passed passed, $failed failed"
[ "$failed" -eq 0 ]

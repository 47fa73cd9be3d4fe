#!/usr/bin/env bash
# Tests bench.sh: one short measurement of ravelin alone, whose report must be whole; a case that does not
# exist; and an interrupt in the middle. Whatever happens, nothing of it may stay behind. As root. Figures mean
# nothing here.
#
#   bench_test.sh DIR    the folder with bench, ravelin and ravelind
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
built=$(realpath -e "${1:?the folder with bench, ravelin and ravelind}")
work=$(mktemp -d)
id=rvbtest
trap 'rm -rf "$work"' EXIT
failures=0

main() {
	local pages started
	pages=$(</proc/sys/vm/nr_hugepages)

	expect "a short measurement" bench --quick --runs 2 --window-ms 200 forward-1k
	expect "its report has one figure of two runs" jq --exit-status '
		(keys == ["cases", "machine"]) and (.cases | length == 1) and (.cases[0]
			| (keys == ["case", "max", "median", "min", "runs", "system", "unit"])
			and .case == "forward-1k" and .system == "ravelin" and .runs == 2
			and .min > 0 and .min <= .median and .median <= .max)' "$work/out/report.json"
	expect "its page has a plot" grep -q '<svg' "$work/out/report.html"
	expect "nothing stays" nothing_of "$pages"

	rm -r "$work/out"
	# Two workers whether or not there are cpus for them.
	expect "more than one worker, and no gateway at all" bench --quick --runs 1 --window-ms 200 --workers 2 workers ceiling-1k
	expect "each has its figure" jq --exit-status '
		[.cases[] | [.case, .system, .median > 0]] == [["workers-1", "ravelin", true], ["workers-2", "ravelin", true],
			["ceiling-1k", "testpmd-io", true]]' "$work/out/report.json"

	expect "a case that does not exist is refused" refused forward-2k

	rm -r "$work/out"
	# A group of its own with signals as on a terminal, where Ctrl-C reaches every process of it.
	set -m
	bench --quick --window-ms 60000 forward-1k >"$work/said" 2>&1 &
	started=$!
	set +m
	expect "it measures" eventually grep -q 'packets/burst' "$work/out/logs/testpmd.log"
	kill -INT -- "-$started"
	expect "an interrupt ends it with an error" fails wait "$started"
	expect "nothing stays then either" nothing_of "$pages"

	if ((failures)); then
		echo "bench_test: $failures failed"
		exit 1
	fi
	echo "bench_test: good"
}

bench() {
	exec "$here/bench.sh" --built "$built" --systems ravelin --out "$work/out" --id "$id" "$@"
}

# expect WHAT COMMAND...
expect() {
	local what=$1 status=0
	shift
	# In a subshell, but for `wait`, which knows its children only here.
	if [[ $* == *wait* ]]; then
		"$@" >"$work/heard" 2>&1 || status=$?
	else
		("$@") >"$work/heard" 2>&1 || status=$?
	fi
	if ((status == 0)); then
		echo "ok      $what"
	else
		echo "FAILED  $what: $*"
		sed 's/^/        /' "$work/heard"
		failures=$((failures + 1))
	fi
}

fails() {
	! "$@"
}

refused() {
	local said
	said=$( (bench "$1") 2>&1) && return 1
	grep -q "no case" <<<"$said" || { echo "$said" && return 1; }
}

# Whether a command succeeds within a minute.
eventually() {
	local look
	for look in {1..600}; do
		"$@" 2>/dev/null && return 0
		sleep 0.1
	done
	echo "not after $((look / 10)) seconds"
	return 1
}

nothing_of() {
	local left
	left=$(
		find /run/ravelin-lab -maxdepth 1 -name "$id" 2>/dev/null
		ip netns list | grep "^$id-" || true
		grep "/$id/" /proc/mounts || true
		[[ $(</proc/sys/vm/nr_hugepages) == "$1" ]] || echo "vm.nr_hugepages was $1"
	)
	[[ -z $left ]] || { echo "$left" && return 1; }
}

main

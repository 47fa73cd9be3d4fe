#!/usr/bin/env bash
# Builds everything and runs every test: the unit and property tests of all crates, the simulation's
# fixed seeds among them, boot.sh on made-up machines, the installable package, the instructions of the packet path, a short benchmark, the simulation
# on more fixed seeds and on fresh ones, its hunt for deliberate bugs, clusters of real daemons in network namespaces, and a short demo.
#
#   test.sh           everything; 9 minutes on two cores when it is built, and twice that from nothing
#   test.sh --fast    without the clusters
#
# Wants Debian 12 or newer and Rust; installs what else is missing. As root (namespaces), or with
# sudo. Everything is in cargo's profile `ci`, but for what is counted. Logs are in target/test. The last line counts:
# `N passed, N failed`; exit status 0 only when nothing failed. It removes what it made, but for
# what was built, also when it is interrupted.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

LABS=/run/ravelin-lab
DEMO_LAB=citest
fast=no
passed=0
failed=0
interrupted=no
failures=()
declare -A labs_before

main() {
	parse_arguments "$@"
	become_root "$@"
	cd "$(dirname "${BASH_SOURCE[0]}")/.."
	need_packages "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
	need_cargo
	target=$(target_dir)
	out=$target/test
	as_caller mkdir -p "$out"
	remember_labs
	trap finish EXIT

	local file ends=() options=(--workspace --locked --profile ci)
	# All at once, so that cargo chooses the dependencies' features once: asked for the programs
	# alone it leaves out what the tests want, and builds half of them again. The tests find the
	# daemons beside themselves.
	run_build "${options[@]}" --bins --tests --examples

	# As root from here: many tests want namespaces or DPDK.
	cargo_test unit 1200 "${options[@]}" --exclude e2e
	single boot 120 scripts/boot_test.sh
	single package 180 scripts/package_test.sh "$target/ci"
	# A minute, and the building of a few crates in the profile `release`.
	single counts 900 scripts/counts.sh
	single bench 120 scripts/bench_test.sh "$target/ci"
	single simulation 300 "$target/ci/sim" --seeds 60 --time-s 6
	# Others each time: a failure says how to replay it.
	single fresh-seeds 300 "$target/ci/sim" --fresh --seeds 120 --time-s 6
	# Apart from the tests: the feature puts deliberate bugs into the crates under test.
	single mutations 600 "${ROOT_CARGO[@]}" run --locked --profile ci -p sim --features mutations -- --mutations --seeds 600
	if [[ $fast == no ]]; then
		# The whole workspace again, so that cargo takes the same features and builds nothing anew.
		# One cluster at a time: two on a small machine disturb each other.
		for file in tests/tests/*.rs; do
			file=${file##*/}
			ends+=(--test "${file%.rs}")
		done
		cargo_test end-to-end 900 "${options[@]}" "${ends[@]}" -- --test-threads=1
		single demo 400 "$target/ci/lab" demo --quick --id "$DEMO_LAB" --out "$out/demo"
	fi
}

parse_arguments() {
	while (($#)); do
		case $1 in
		--fast) fast=yes ;;
		-h | --help)
			manual
			exit 0
			;;
		*) die "unknown option $1; see --help" ;;
		esac
		shift
	done
}

# As the caller. When it fails there is nothing to go on with.
run_build() {
	if ! run build 1500 "${CARGO[@]}" build "$@"; then
		failed=$((failed + 1))
		failures+=("build")
		exit 1
	fi
}

# cargo_test NAME LIMIT CARGO-ARGUMENT...: adds up what the tests' closing lines say.
cargo_test() {
	local name=$1 limit=$2 status=0 log=$out/$1.log sums
	shift 2
	run "$name" "$limit" "${ROOT_CARGO[@]}" test --no-fail-fast "$@" || status=$?
	read -r -a sums < <(awk '/^test result: / { p += $4; f += $6 } END { print p + 0, f + 0 }' "$log")
	# A test program that crashed or hung has no closing line, and tests that vanished none either.
	if ((status && !sums[1])) || ((!status && !sums[0])); then
		sums[1]=1
	fi
	passed=$((passed + sums[0]))
	failed=$((failed + sums[1]))
	((!sums[1])) || failures+=("$name (${sums[1]}; $log)")
}

# single NAME LIMIT COMMAND...: a step that passes or fails as one.
single() {
	local name=$1
	if run "$@"; then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
		failures+=("$name ($out/$name.log)")
	fi
}

# run NAME SECONDS COMMAND...: shows what it prints and keeps that in a log; ends it after so many
# seconds.
run() {
	local name=$1 limit=$2 log=$out/$1.log begin=$SECONDS status=0 tee command
	shift 2
	command=$*
	# Without how cargo is found.
	say "$name: ${command/#env *cargo /cargo }"
	exec {shown}> >(exec tee "$log")
	tee=$!
	run_signalled timeout --kill-after=20 "$limit" "$@" >&"$shown" 2>&1 {shown}>&- || status=$?
	exec {shown}>&-
	# What was started and outlives its step would keep this open, so do not wait for ever.
	timeout 10 tail --pid="$tee" --sleep-interval=0.1 --follow /dev/null || true
	case $status in
	0) say "$name: done after $((SECONDS - begin)) s" ;;
	124 | 137) say "$name: ended, it took longer than $limit s" ;;
	*) say "$name: exit status $status after $((SECONDS - begin)) s" ;;
	esac
	if [[ $signalled == yes ]]; then
		interrupted=yes
		exit 130
	fi
	return "$status"
}

# The labs that are there before us are somebody else's.
remember_labs() {
	local lab
	for lab in "$LABS"/*/; do
		labs_before[$lab]=yes
	done
}

# Tests remove their labs, but one that was killed cannot: a lab that came since we began and whose
# processes are all gone, as a test's are when it is. `lab down` refuses one that somebody is at
# work on.
remove_labs() {
	local lab id
	for lab in "$LABS"/*/; do
		[[ -d $lab && -z ${labs_before[$lab]:-} ]] || continue
		id=${lab%/}
		id=${id##*/}
		if ! ends "$lab" || ! "$target/ci/lab" down --id "$id"; then
			say "the lab $id is still there: somebody else's, or \`lab down --id $id\` removes it"
		fi
	done
}

# Whether the lab's processes end within five seconds.
ends() {
	local process look
	for look in {1..50}; do
		for process in "$1"processes/*; do
			if [[ -d /proc/${process##*/} ]]; then
				((look < 50)) || return 1
				sleep 0.1
				continue 2
			fi
		done
		return 0
	done
}

finish() {
	local status=$? failure
	trap '' INT TERM HUP
	if [[ -x $target/ci/lab ]]; then
		remove_labs
	fi
	hand_over "$target"
	if [[ $interrupted == yes ]]; then
		failed=$((failed + 1))
		failures+=("interrupted")
	elif ((status && !failed)); then
		failed=1
		failures+=("test.sh itself, see above")
	fi
	for failure in "${failures[@]}"; do
		say "FAILED: $failure"
	done
	echo "$passed passed, $failed failed" | tee "$out/result"
	((failed)) && exit 1
	exit 0
}

main "$@"

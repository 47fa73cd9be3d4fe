#!/usr/bin/env bash
# Counts the instructions of the packet path and of replication, per packet, key or record, and compares them with
# benches/counts/baseline.json: fails when a case takes more than the tolerance that is written there.
#
#   counts.sh            counts, prints a table, compares
#   counts.sh --update   counts, and writes the baseline anew
#
# Wants Debian 12 or newer and Rust; as root, or with sudo, it installs valgrind if that is missing. Instructions
# say nothing of caches: scripts/bench.sh and the micro benchmarks are for time. What is counted is repeatable to a
# thousandth with one compiler, so the baseline names its compiler, and another one's counts are refused: count the
# commit of the baseline with the new compiler first, with --update, then compare.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What is between these two is counted: see benches/counts/main.rs. With --demangle=no both of rustc's ways to
# write a name contain this.
FUNCTION='*6counts7counted*'
TOLERANCE_PERCENT=3

update=no
while (($#)); do
	case $1 in
	--update) update=yes ;;
	-h | --help)
		manual
		exit 0
		;;
	*) die "unknown option $1; see --help" ;;
	esac
	shift
done
cd "$(dirname "${BASH_SOURCE[0]}")/.."
baseline=benches/counts/baseline.json
if ! command -v valgrind >/dev/null || ! command -v jq >/dev/null; then
	((EUID == 0)) || die "valgrind or jq is missing: apt-get install valgrind jq"
	need_packages valgrind jq
fi
need_cargo
target=$(target_dir)
[[ $(uname -m) == x86_64 ]] || die "the baseline is of x86_64, this machine is $(uname -m)"

# Whatever else is set for this shell, the flags are those of the profile, and the processor is rustc's x86-64.
say "building"
env -u RUSTFLAGS -u CARGO_ENCODED_RUSTFLAGS -u CARGO_BUILD_RUSTFLAGS CARGO_INCREMENTAL=0 \
	"${CARGO[@]}" build --quiet --locked --release -p counts
program=$target/release/counts
work=$(mktemp --directory)
trap 'rm -rf "$work"' EXIT

# One run of a case: instructions per unit.
count() {
	local units instructions
	# The C library chooses its copies by the processor: here always the same. Addresses are not random.
	units=$(GLIBC_TUNABLES=glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX2,-AVX2_Usable,-ERMS,-FSRM,-AVX512F,-AVX512VL \
		setarch --addr-no-randomize valgrind --quiet --tool=callgrind --demangle=no --toggle-collect="$FUNCTION" \
		--callgrind-out-file="$work/$1" "$program" "$1" 2>"$work/$1.log") ||
		die "case $1 failed: $(tail -n 5 "$work/$1.log")"
	instructions=$(awk '/^(summary|totals):/ { print $2; exit }' "$work/$1")
	((${instructions:-0} > 0)) || die "case $1 counted nothing: is its work in a function that matches $FUNCTION?"
	awk -v n="$instructions" -v units="$units" 'BEGIN { printf "%.1f\n", n / units }'
}

mapfile -t cases < <("$program")
((${#cases[@]})) || die "$program names no case"
# As many at a time as there are cpus: counts do not depend on what else runs.
pids=()
for case in "${cases[@]}"; do
	while (($(jobs -rp | wc -l) >= $(nproc))); do
		wait -n || true
	done
	count "$case" >"$work/$case.count" &
	pids+=($!)
done
for pid in "${pids[@]}"; do
	wait "$pid"
done
for case in "${cases[@]}"; do
	printf '%s\t%s\n' "$case" "$(cat "$work/$case.count")"
done >"$work/counts"
compiler=$("${CARGO[@]::${#CARGO[@]}-1}" rustc --version)

if [[ $update == yes ]]; then
	jq --null-input --raw-input --arg compiler "$compiler" --argjson tolerance "$TOLERANCE_PERCENT" \
		'{compiler: $compiler, tolerance_percent: $tolerance,
		  instructions: [inputs | split("\t") | {key: .[0], value: (.[1] | tonumber)}] | from_entries}' \
		"$work/counts" >"$work/new"
	# The file belongs to who called.
	as_caller tee "$baseline" <"$work/new" >/dev/null
	column -t -s $'\t' "$work/counts"
	say "written to $baseline"
	exit 0
fi

[[ -r $baseline ]] || die "there is no $baseline: make one with --update on a commit that is known to be good"
before=$(jq --raw-output .compiler "$baseline")
[[ $before == "$compiler" ]] ||
	die "the baseline is of \"$before\" and this is \"$compiler\": counts differ with the compiler. Check out the commit that" \
		"the baseline was made at, run counts.sh --update there with this compiler, then compare what has changed since"
jq --raw-output '.instructions | to_entries[] | [.key, .value] | @tsv' "$baseline" >"$work/baseline"
awk -F '\t' -v tolerance="$(jq .tolerance_percent "$baseline")" '
	FNR == NR { before[$1] = $2; next }
	FNR == 1 { printf "%-20s %12s %12s %9s\n", "case", "baseline", "now", "change" }
	!($1 in before) { printf "%-20s %12s %12.1f %9s  NEW: --update adds it\n", $1, "-", $2, "-"; bad++; next }
	{
		change = ($2 / before[$1] - 1) * 100
		verdict = ""
		if (change > tolerance) { verdict = "SLOWER"; bad++ }
		else if (change < -tolerance) verdict = "faster: --update keeps it so"
		printf "%-20s %12.1f %12.1f %+8.1f%%  %s\n", $1, before[$1], $2, change, verdict
		seen[$1]
	}
	END {
		for (case_ in before) if (!(case_ in seen)) { printf "%-20s %12.1f  GONE: --update forgets it\n", case_, before[case_]; bad++ }
		if (bad) {
			printf "%d of the cases are not as the baseline has them (tolerance %s%%)\n", bad, tolerance
			exit 1
		}
	}' "$work/baseline" "$work/counts" ||
	die "if that is meant, write the baseline anew with scripts/counts.sh --update and say why in the commit"

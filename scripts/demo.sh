#!/usr/bin/env bash
# A cluster of three on this machine, under load from real programs; the owner of a running
# download is killed and comes back, and nothing may break.
#
#   demo.sh             512 MB at 25 MB/s, 214 other connections; a minute and a half
#   demo.sh --quick     100 MB, 64 other connections; for continuous integration
#   demo.sh --keep      leave the cluster running at the end (`lab down` removes it)
#   demo.sh --nodes N   N nodes, 2 to 16
#   demo.sh --id NAME   another name for the lab's namespaces (default rvl)
#
# Wants Debian 12 or newer and Rust; installs what else is missing. As root, or with sudo. The
# report is target/demo/report.json; exit status 0 only when nothing broke.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

id=rvl
keep=no
options=()
out=target/demo

main() {
	parse_arguments "$@"
	become_root "$@"
	cd "$(dirname "${BASH_SOURCE[0]}")/.."
	need_packages "${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}"
	need_cargo
	say "building"
	"${CARGO[@]}" build --release --locked -p ravelind -p ravelin -p lab
	lab=$(target_dir)/release/lab
	as_caller mkdir -p "$out"
	trap finish EXIT
	say "running; the logs are in $out/logs"
	run_signalled "$lab" demo --id "$id" --out "$out" "${options[@]}"
}

parse_arguments() {
	while (($#)); do
		case $1 in
		--quick) options+=(--quick) ;;
		--keep)
			keep=yes
			options+=(--keep)
			;;
		--nodes | --id)
			[[ -n ${2:-} ]] || die "$1 wants a value"
			if [[ $1 == --id ]]; then id=$2; else options+=(--nodes "$2"); fi
			shift
			;;
		-h | --help)
			manual
			exit 0
			;;
		*) die "unknown option $1; see --help" ;;
		esac
		shift
	done
}

# Whatever happened, nothing stays but what was asked for.
finish() {
	local status=$?
	trap '' INT TERM HUP
	if [[ $keep == no || $status != 0 ]]; then
		"$lab" down --id "$id" || status=1
	fi
	hand_over "$out"
	exit "$status"
}

main "$@"

#!/usr/bin/env bash
# Measures Ravelin and its peers on this machine: the same packets, the same cores, one run.
#
#   bench.sh                     every case; an hour or so
#   bench.sh --quick             the most telling cases with short runs, nftables for two of them only, conntrackd for
#                                none unless --systems names it; within five minutes once it is built
#   bench.sh CASE...             these cases; `bench.sh --list` names them
#   bench.sh --systems A,B       only these systems: ravelin, ovs, nftables, conntrackd; else all
#   bench.sh --runs N            measurements per case and system
#   bench.sh --window-ms N       how long one of them takes
#   bench.sh --flows N           flows that failover and snapshot are about (default a million)
#   bench.sh --workers N         the most workers of the case workers; by default as many as have cpus of their own
#   bench.sh --out DIR           where the report goes (default target/bench)
#   bench.sh --built DIR         measure the programs in this folder instead of building them
#
# Wants Debian 12 or newer, two cores that nobody else uses meanwhile, and Rust; installs what else is
# missing. As root, or with sudo. Reserves huge pages while it runs and gives them back. The report is
# DIR/report.json and DIR/report.html, logs are in DIR/logs; docs/performance.md says what is measured. Exit
# status 0 only when every figure that was asked for is there.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# What each peer is in.
declare -A PEER_PACKAGES=(
	[ovs]=openvswitch-switch-dpdk
	[nftables]="nftables conntrack"
	[conntrackd]="nftables conntrack conntrackd"
)
SERVICES=(openvswitch-switch ovs-vswitchd ovsdb-server nftables conntrackd)
systems=
out=target/bench
built=
list=no
options=()

main() {
	parse_arguments "$@"
	local packages=("${BUILD_PACKAGES[@]}" "${LAB_PACKAGES[@]}")
	if [[ $list == no ]]; then
		become_root "$@"
		local peer peer_packages
		for peer in "${!PEER_PACKAGES[@]}"; do
			if [[ -z $systems || ,$systems, == *,$peer,* ]]; then
				read -ra peer_packages <<<"${PEER_PACKAGES[$peer]}"
				packages+=("${peer_packages[@]}")
			fi
		done
		# Some are in several lists.
		mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
		remember_services
		need_packages "${packages[@]}"
		quiet_services
	fi
	# Folders that were named are the caller's; the repository's come after this.
	[[ -z $built ]] || built=$(realpath -e "$built")
	[[ $out == target/bench ]] || out=$(realpath "$out")
	cd "$(dirname "${BASH_SOURCE[0]}")/.."
	if [[ -z $built ]]; then
		need_cargo
		say "building"
		# All at once, so that what they share is built once: the examples are the bare round trip and the agent of
		# hold-latency.
		"${CARGO[@]}" build --release --locked -p ravelind -p ravelin -p benches -p transport -p agent \
			--bin ravelind --bin ravelin --bin bench --example rtt --example pass
		built=$(target_dir)/release
	fi
	if [[ $list == yes ]]; then
		exec "$built/bench" --list
	fi
	as_caller mkdir -p "$out"
	trap finish EXIT
	say "measuring; the logs are in $out/logs"
	[[ -z $systems ]] || options+=(--systems "$systems")
	run_signalled "$built/bench" --out "$out" "${options[@]}"
}

parse_arguments() {
	while (($#)); do
		case $1 in
		--quick) options+=(--quick) ;;
		--list) list=yes ;;
		--systems | --out | --built | --runs | --window-ms | --flows | --workers | --id)
			[[ -n ${2:-} ]] || die "$1 wants a value"
			case $1 in
			--systems) systems=$2 ;;
			--out) out=$2 ;;
			--built) built=$2 ;;
			*) options+=("$1" "$2") ;;
			esac
			shift
			;;
		-h | --help)
			manual
			exit 0
			;;
		-*) die "unknown option $1; see --help" ;;
		*) options+=("$1") ;;
		esac
		shift
	done
}

# Services that the packages bring are not ours to run: a switch that spins would take the core that is
# measured. What was there before us stays as it was.
declare -A services_before
remember_services() {
	local service
	for service in "${SERVICES[@]}"; do
		if has_service "$service"; then
			services_before[$service]=yes
		fi
	done
}

quiet_services() {
	local service
	for service in "${SERVICES[@]}"; do
		if [[ -z ${services_before[$service]:-} ]] && has_service "$service"; then
			systemctl disable --now "$service.service" >/dev/null 2>&1 || true
		fi
	done
}

has_service() {
	command -v systemctl >/dev/null && systemctl cat "$1.service" >/dev/null 2>&1
}

finish() {
	local status=$?
	trap '' INT TERM HUP
	hand_over "$out"
	if ((status == 0)); then
		say "the report is $out/report.html"
	fi
	exit "$status"
}

main "$@"

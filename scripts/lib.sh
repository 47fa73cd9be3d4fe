# shellcheck shell=bash
# What the scripts share: saying what happens, being root, installing packages, finding cargo,
# running a program so that signals reach it. Source it.

# What building wants, and what running a cluster on this machine wants besides (Debian's names).
# shellcheck disable=SC2034 # used by who sources this
BUILD_PACKAGES=(build-essential pkg-config libclang-dev libdpdk-dev jq valgrind)
# shellcheck disable=SC2034
LAB_PACKAGES=(dpdk-dev strace iproute2 ethtool nftables iputils-ping nginx-light curl vsftpd
	tftpd-hpa sip-tester lftp)

# A line about what happens now.
say() {
	printf '== %s\n' "$*" >&2
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Prints the comment at the head of the script: its manual.
manual() {
	sed -n '2,/^set -/{s/^# \{0,1\}//;/^set -/d;p}' "$0"
}

# Starts the script anew as root, through sudo, unless it is. Call it with the script's arguments.
become_root() {
	((EUID != 0)) || return 0
	command -v sudo >/dev/null || die "this needs root, and there is no sudo: run it as root"
	exec sudo -- "$0" "$@"
}

# How to run a command as who called: what sudo made root is the caller's again, so that nothing
# of root's lies about in the build folder.
AS_CALLER=()
if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
	AS_CALLER=(sudo --user="$SUDO_USER" --set-home --)
fi

as_caller() {
	"${AS_CALLER[@]}" "$@"
}

# Gives the caller what root has made below a folder.
hand_over() {
	((${#AS_CALLER[@]})) && [[ -d $1 ]] || return 0
	find "$1" -user root -exec chown --no-dereference "$SUDO_UID:${SUDO_GID:-$SUDO_UID}" {} +
}

# Installs those of the packages that are missing; as root. Services that come with them are neither
# started now nor at the next boot, if this is what brought them.
need_packages() {
	local package missing=()
	for package in "$@"; do
		dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null |
			grep -qx installed || missing+=("$package")
	done
	((${#missing[@]})) || return 0
	command -v apt-get >/dev/null || die "install these by hand, there is no apt here: ${missing[*]}"
	say "installing ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive bash -s -- "${missing[@]}" <<-'INSTALL'
		set -euo pipefail
		policy=/usr/sbin/policy-rc.d
		if [[ ! -e $policy ]]; then
			printf '#!/bin/sh\nexit 101\n' >"$policy"
			chmod 755 "$policy"
			trap 'rm -f "$policy"' EXIT
		fi
		apt-get update -q </dev/null
		apt-get install -q -y --no-install-recommends "$@" </dev/null
		for package in "$@"; do
			case $package in
			nginx* | vsftpd | tftpd-hpa)
				if command -v systemctl >/dev/null; then
					systemctl disable "${package%-light}.service" || true
				fi
				;;
			esac
		done
	INSTALL
}

# Finds cargo for who called, or tells how to get it. Sets CARGO to a command line that runs it as
# the caller, and ROOT_CARGO to one that runs the caller's cargo as root.
need_cargo() {
	local home path
	home=$(as_caller printenv HOME)
	path=$(as_caller printenv PATH)
	if ! as_caller bash -c 'command -v cargo' >/dev/null 2>&1; then
		[[ -x $home/.cargo/bin/cargo ]] ||
			die "there is no cargo: install Rust from https://rustup.rs, then run this again"
		path=$home/.cargo/bin:$path
	fi
	# shellcheck disable=SC2034 # used by who sources this
	CARGO=("${AS_CALLER[@]}" env "PATH=$path" cargo)
	# shellcheck disable=SC2034
	ROOT_CARGO=(env "HOME=$home" "PATH=$path" cargo)
}

# The folder that cargo builds in; programs are in its subfolder of the profile's name.
target_dir() {
	"${CARGO[@]}" metadata --quiet --no-deps --format-version 1 | jq --raw-output .target_directory
}

# Runs a program in the background and waits for it, so that a signal to this script reaches it at
# once: bash runs no trap while it waits for a command in the foreground. INT and HUP arrive as TERM.
# `signalled` says afterwards whether there was one.
# shellcheck disable=SC2034 # used by who sources this
signalled=no
run_signalled() {
	"$@" </dev/null &
	local running=$! status=0
	trap 'signalled=yes; kill -TERM "$running" 2>/dev/null || true' INT TERM HUP
	while :; do
		status=0
		wait "$running" || status=$?
		kill -0 "$running" 2>/dev/null || break
	done
	trap - INT TERM HUP
	return "$status"
}

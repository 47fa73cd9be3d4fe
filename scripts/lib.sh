# shellcheck shell=bash
# What the scripts share: saying what happens, being root, installing packages. Source it.

# A line about what happens now.
say() {
	printf '== %s\n' "$*" >&2
}

die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# Starts the script anew as root, through sudo, unless it is. Call it with the script's arguments.
become_root() {
	((EUID != 0)) || return 0
	command -v sudo >/dev/null || die "this needs root, and there is no sudo: run it as root"
	exec sudo -- "$0" "$@"
}

# Runs a command as who called: what sudo made root is the caller's again, so that nothing of
# root's lies about in the build folder.
as_caller() {
	if ((EUID == 0)) && [[ -n ${SUDO_USER:-} && $SUDO_USER != root ]]; then
		sudo --user="$SUDO_USER" --set-home -- "$@"
	else
		"$@"
	fi
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
			if [[ $package == nginx* ]] && command -v systemctl >/dev/null; then
				systemctl disable nginx.service || true
			fi
		done
	INSTALL
}

# Finds cargo for who called, or tells how to get it. Sets CARGO to a command line.
need_cargo() {
	local home
	home=$(as_caller printenv HOME)
	if as_caller bash -c 'command -v cargo' >/dev/null 2>&1; then
		CARGO=(as_caller cargo)
	elif [[ -x $home/.cargo/bin/cargo ]]; then
		CARGO=(as_caller env "PATH=$home/.cargo/bin:$PATH" cargo)
	else
		die "there is no cargo: install Rust from https://rustup.rs, then run this again"
	fi
}

# The folder of the release programs.
release_dir() {
	"${CARGO[@]}" metadata --quiet --no-deps --format-version 1 | jq --raw-output '.target_directory + "/release"'
}

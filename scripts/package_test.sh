#!/usr/bin/env bash
# Tests package.sh: makes the package of programs that are built already, installs it into a folder
# with dpkg, runs what is in it there, and removes it again. Changes nothing outside a temporary
# folder.
#
#   package_test.sh DIR    the folder with ravelin and ravelind
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
built=$(realpath -e "${1:?the folder with ravelin and ravelind}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

main() {
	local package again root=$work/machine unit agent
	package=$("$here/package.sh" --built "$built" --out "$work/one" 2>"$work/log") || { cat "$work/log" && exit 1; }
	again=$("$here/package.sh" --built "$built" --out "$work/two" 2>/dev/null)
	expect "two packages of the same programs are equal" cmp "$package" "$again"

	expect "it names the package" [ "$(dpkg-deb --field "$package" Package)" = ravelin ]
	expect "it depends on DPDK's libraries" grep -q librte-ethdev <<<"$(dpkg-deb --field "$package" Depends)"
	# All but these are of this machine: it could be installed here.
	expect "what it depends on can be had" satisfiable "$package"

	# dpkg's own list of files, in a machine of one folder.
	mkdir -p "$root/var/lib/dpkg"/{updates,info}
	touch "$root/var/lib/dpkg"/{status,available}
	expect "it installs" dpkg_in "$root" --force-depends --install "$package"
	expect "its files are as they were packed" dpkg_in "$root" --verify ravelin
	expect "ravelin runs" "$root/usr/bin/ravelin" --version
	expect "ravelind runs" "$root/usr/sbin/ravelind" --version
	for agent in ftp tftp sip; do
		expect "the $agent agent runs" "$root/usr/lib/ravelin/ravelin-agent-$agent" --version
	done
	expect "the shipped example is a good configuration" \
		"$root/usr/bin/ravelin" check "$root/usr/share/doc/ravelin/examples/single.toml"
	expect "the boot script is there" "$root/usr/lib/ravelin/boot" --help
	unit=$root/lib/systemd/system/ravelind.service
	expect "the unit starts the boot script" grep -qx 'ExecStart=/usr/lib/ravelin/boot --config /etc/ravelin/ravelin.toml' "$unit"
	if command -v systemd-analyze >/dev/null; then
		sed "s|/usr/lib/ravelin/boot|$root&|" "$unit" >"$work/ravelind.service"
		expect "systemd takes the unit" systemd-analyze verify --man=no "$work/ravelind.service"
	fi
	expect "it is removed" dpkg_in "$root" --purge ravelin
	expect "nothing of it stays" nothing_of "$root"

	if ((failures)); then
		echo "package_test: $failures failed"
		exit 1
	fi
	echo "package_test: good"
}

# expect WHAT COMMAND...
expect() {
	local what=$1
	shift
	if "$@" >"$work/said" 2>&1; then
		echo "ok      $what"
	else
		echo "FAILED  $what: $*"
		sed 's/^/        /' "$work/said"
		failures=$((failures + 1))
	fi
}

dpkg_in() {
	local root=$1
	shift
	dpkg --root="$root" --force-not-root --force-script-chrootless --log=/dev/null "$@"
}

# Whether every package that it depends on is known here, as this machine's or as one to be installed.
satisfiable() {
	local name missing=()
	while read -r name; do
		dpkg-query --show "$name" >/dev/null 2>&1 || apt-cache show "$name" >/dev/null 2>&1 || missing+=("$name")
	done < <(dpkg-deb --field "$1" Depends | tr ',' '\n' | sed 's/[[:space:]]*\([^ (]*\).*/\1/')
	((${#missing[@]} == 0)) || { echo "unknown: ${missing[*]}" && return 1; }
}

nothing_of() {
	local left
	left=$(find "$1" -path "$1/var" -prune -o -type f -print)
	[[ -z $left ]] || { echo "$left" && return 1; }
}

main

#!/usr/bin/env bash
# Builds the installable package of a node: a Debian package with ravelind, ravelin, the boot script and its
# systemd unit, the examples and the documents.
#
#   package.sh               builds in release and writes target/package/ravelin_VERSION_ARCH.deb
#   package.sh --built DIR   takes the programs from DIR instead of building (for tests)
#   package.sh --out DIR     writes the package there
#
# Install it with `apt-get install ./ravelin_*.deb`, which brings what it depends on. It starts
# nothing: write /etc/ravelin/ravelin.toml (/usr/share/doc/ravelin/examples), then
# `systemctl enable --now ravelind`. The last line is the package's path.
set -euo pipefail
# shellcheck source=scripts/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

AGENTS=(usr/lib/ravelin/ravelin-agent-{ftp,tftp,sip})

built=
out=

main() {
	parse_arguments "$@"
	cd "$(dirname "${BASH_SOURCE[0]}")/.."
	local tool
	for tool in dpkg-deb dpkg-shlibdeps dpkg-architecture strip; do
		command -v "$tool" >/dev/null || die "$tool is missing: apt-get install build-essential"
	done
	need_cargo
	out=${out:-$(target_dir)/package}
	if [[ -z $built ]]; then
		say "building"
		"${CARGO[@]}" build --release --locked -p ravelind -p ravelin \
			-p agent-ftp -p agent-tftp -p agent-sip
		built=$(target_dir)/release
	fi
	# All files of one commit carry its time, so that equal sources give equal packages.
	SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
	export SOURCE_DATE_EPOCH
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	stage
	pack
}

parse_arguments() {
	while (($#)); do
		case $1 in
		--built | --out)
			[[ -n ${2:-} ]] || die "$1 wants a folder"
			if [[ $1 == --built ]]; then built=$(realpath -e "$2"); else out=$2; fi
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

# Lays the files out as they will be installed.
stage() {
	local root=$work/root program doc=usr/share/doc/ravelin
	umask 022
	mkdir -p "$root"/{usr/bin,usr/sbin,usr/lib/ravelin,lib/systemd/system,etc/ravelin,"$doc"}
	install -m 755 "$built/ravelin" "$root/usr/bin/ravelin"
	install -m 755 "$built/ravelind" "$root/usr/sbin/ravelind"
	for program in "${AGENTS[@]}"; do
		install -m 755 "$built/${program##*/}" "$root/$program"
	done
	for program in usr/bin/ravelin usr/sbin/ravelind "${AGENTS[@]}"; do
		strip --strip-unneeded "$root/$program"
	done
	install -m 755 scripts/boot.sh "$root/usr/lib/ravelin/boot"
	install -m 644 packaging/ravelind.service "$root/lib/systemd/system/ravelind.service"
	install -m 644 README.md ARCHITECTURE.md hugepages.md CHANGELOG.md "$root/$doc"
	cat LICENSE LICENSE-APACHE LICENSE-MIT >"$root/$doc/copyright"
	cp -r examples "$root/$doc/examples"
	cp -r dpdk/profiles "$root/$doc/profiles"
	find "$root/$doc" -type f -exec chmod 644 {} +
}

pack() {
	local root=$work/root version architecture depends size package
	version=$("${CARGO[@]}" metadata --quiet --no-deps --format-version 1 |
		jq --raw-output '.packages[] | select(.name == "ravelind").version')
	architecture=$(dpkg-architecture --query DEB_HOST_ARCH)
	# It looks at a source package's control file for names only.
	mkdir -p "$work/debian"
	printf 'Source: ravelin\n\nPackage: ravelin\nArchitecture: any\n' >"$work/debian/control"
	depends=$(cd "$work" && dpkg-shlibdeps -O root/usr/bin/ravelin root/usr/sbin/ravelind \
		"${AGENTS[@]/#/root/}")
	depends=${depends#shlibs:Depends=}
	[[ $depends == *librte-* ]] || die "ravelind does not seem to be linked with DPDK: it wants '$depends'"
	size=$(du --summarize --apparent-size --block-size=1024 "$root" | cut -f 1)
	mkdir -p "$root/DEBIAN"
	sed -e "s/@VERSION@/$version/" -e "s/@ARCHITECTURE@/$architecture/" -e "s/@SIZE@/$size/" \
		-e "s/@DEPENDS@/$depends/" packaging/control.in >"$root/DEBIAN/control"
	(cd "$root" && find usr lib etc -type f -exec md5sum {} + | sort -k 2) >"$root/DEBIAN/md5sums"
	mkdir -p "$out"
	package=$out/ravelin_${version}_$architecture.deb
	dpkg-deb --root-owner-group --build "$root" "$package" >&2
	echo "$package"
}

main "$@"

#!/usr/bin/env bash
# Prepares a bare-metal node and starts ravelind: hugepages, network devices, interrupts.
#
#   boot.sh --check             report on the machine, change nothing; status 1 if something FAILs
#   boot.sh --dry-run           print every command that would run, run none
#   boot.sh                     prepare and start (root)
#   boot.sh --no-start          prepare only (root)
#   ... --config FILE           default /etc/ravelin/ravelin.toml
#
# Running it again changes nothing that is right already. What it needs to know of the
# configuration it asks `ravelin check --json FILE`; that wants jq.
#
# RAVELIN_BOOT_ROOT=FOLDER looks at FOLDER/proc and FOLDER/sys instead of the machine's, for
# --check and --dry-run only: that is how boot_test.sh tests it.
set -euo pipefail

config=/etc/ravelin/ravelin.toml
mode=boot
start=yes
root=${RAVELIN_BOOT_ROOT:-}

main() {
	parse_arguments "$@"
	load_config
	case $mode in
	check)
		check_machine
		;;
	*)
		# Decisions would come from that tree, changes go to the machine.
		[[ -z $root || $mode == dry-run ]] || die "RAVELIN_BOOT_ROOT is for --check and --dry-run"
		[[ $mode == dry-run || $EUID == 0 ]] ||
			die "preparing a node needs root (hugepages, drivers, interrupts): sudo $0 --config $config
  without root: $0 --check, $0 --dry-run"
		reserve_hugepages
		mount_hugepages
		bind_devices
		move_interrupts
		set_governors
		start_daemon
		;;
	esac
}

parse_arguments() {
	while (($#)); do
		case $1 in
		--check) mode=check ;;
		--dry-run) mode=dry-run ;;
		--no-start) start=no ;;
		--config)
			[[ -n ${2:-} ]] || die "--config wants a file"
			config=$2
			shift
			;;
		-h | --help)
			sed -n '2,/^set -/{s/^# \{0,1\}//;/^set -/d;p}' "$0"
			exit 0
			;;
		*) die "unknown option $1; see $0 --help" ;;
		esac
		shift
	done
}

die() {
	echo "boot: $*" >&2
	exit 1
}

# ---- the configuration's facts ----

load_config() {
	local json
	command -v jq >/dev/null || die "jq is missing: apt-get install jq"
	command -v ravelin >/dev/null || die "the program ravelin is not on PATH"
	# A configuration that is wrong gives a status and JSON with the reason.
	json=$(ravelin check --json "$config") || true
	if [[ $(jq -r '.ok' <<<"$json" 2>/dev/null) != true ]]; then
		echo "$json" >&2
		die "$config is not a valid configuration: ravelin check $config"
	fi
	hugepages=$(jq -r '.summary.hugepages // false' <<<"$json")
	memory_mb=$(jq -r '.summary.memory_mb // 0' <<<"$json")
	idle=$(jq -r '.summary.idle // "spin"' <<<"$json")
	mapfile -t pci < <(jq -r '.summary.pci // [] | .[]' <<<"$json")
	mapfile -t workers < <(jq -r '.summary.worker_cpus // [] | .[]' <<<"$json")
	mapfile -t assigned < <(
		jq -r '.summary | (.worker_cpus // []) + [.sync_cpu, .membership_cpu] | .[] | select(. != null)' <<<"$json"
	)
	mapfile -t pinned < <(printf '%s\n' "${assigned[@]}" | sort -nu)
	((${#workers[@]})) || die "$config names no worker CPUs"
	# Printed and written to files: nothing but what is meant.
	[[ $memory_mb =~ ^[0-9]+$ ]] || die "memory_mb is '$memory_mb', not a number"
	local value
	for value in "${assigned[@]}"; do
		[[ $value =~ ^[0-9]+$ ]] || die "'$value' is not the number of a CPU"
	done
	for value in "${pci[@]}"; do
		[[ $value =~ ^[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$ ]] ||
			die "'$value' is not a PCI address such as 0000:01:00.0"
	done
}

# ---- reading the machine ----

# A file's content, or nothing.
content() {
	if [[ -r $root$1 ]]; then cat "$root$1" 2>/dev/null || true; fi
}

# A list such as 0-3,8 as lines.
expand() {
	local range
	for range in ${1//,/ }; do seq "${range%-*}" "${range#*-}"; done
}

# Lines or words as a list with commas.
join() {
	local IFS=,
	echo "$*"
}

# contains WORD WORDS...
contains() {
	local word=$1 other
	shift
	for other in "$@"; do [[ $other != "$word" ]] || return 0; done
	return 1
}

online() { expand "$(content /sys/devices/system/cpu/online)"; }

# The NUMA node of a CPU; 0 where the kernel knows none.
cpu_node() {
	local folder
	for folder in "$root/sys/devices/system/cpu/cpu$1"/node[0-9]*; do
		[[ -e $folder ]] && echo "${folder##*/node}" && return
	done
	echo 0
}

worker_nodes() {
	local cpu
	for cpu in "${workers[@]}"; do cpu_node "$cpu"; done | sort -nu
}

# The CPUs that belong to no part of Ravelin.
other_cpus() {
	local cpu
	online | while read -r cpu; do contains "$cpu" "${pinned[@]}" || echo "$cpu"; done
}

# Reserved hugepages in MB: of one node, or with no argument of all.
reserved_mb() {
	local folder size count sum=0
	local -a folders=("$root/sys/kernel/mm/hugepages"/hugepages-*)
	[[ -z ${1:-} ]] || folders=("$root/sys/devices/system/node/node$1/hugepages"/hugepages-*)
	for folder in "${folders[@]}"; do
		[[ -r $folder/nr_hugepages ]] || continue
		size=${folder##*hugepages-}
		count=$(<"$folder/nr_hugepages")
		((sum += ${size%kB} * count / 1024)) || true
	done
	echo "$sum"
}

hugetlbfs_mounted() { content /proc/mounts | awk '$3 == "hugetlbfs" { found = 1 } END { exit !found }'; }

pci_driver() {
	local link=$root/sys/bus/pci/devices/$1/driver
	if [[ -e $link ]]; then basename "$(readlink -f "$link")"; fi
}

# Drivers that DPDK works beside: they keep the device.
bifurcated() { [[ $1 == mlx4_core || $1 == mlx5_core ]]; }

# The network interfaces of a device that carry a default route.
default_routes() {
	local folder name
	for folder in "$root/sys/bus/pci/devices/$1/net"/* "$root/sys/bus/pci/devices/$1"/virtio*/net/*; do
		[[ -e $folder ]] || continue
		name=${folder##*/}
		# Destination and mask are all zeros.
		if content /proc/net/route | awk -v n="$name" '$1 == n && $2 == "00000000" && $8 == "00000000" { f = 1 } END { exit !f }'; then
			echo "$name"
		fi
	done
}

iommu_active() { compgen -G "$root/sys/kernel/iommu_groups/*" >/dev/null; }

noiommu_allowed() { [[ $(content /sys/module/vfio/parameters/enable_unsafe_noiommu_mode) == Y ]]; }

# ---- check ----

failed=0

ok() { printf 'OK    %s\n' "$*"; }
warn() { printf 'WARN  %s\n' "$*"; }
fail() {
	printf 'FAIL  %s\n' "$*"
	failed=1
}

check_machine() {
	check_user
	check_cpu_flags
	check_cpus
	check_isolation
	check_numa
	check_iommu
	check_hugepages
	check_drivers
	check_clock
	check_governor
	exit "$failed"
}

check_user() {
	if [[ $EUID == 0 ]]; then
		ok "root"
	else
		warn "not root: this report needs none, preparing and starting do"
	fi
}

check_cpu_flags() {
	local flags flag missing=()
	flags=" $(content /proc/cpuinfo | awk -F: '/^(flags|Features)/ { print $2; exit }') "
	if [[ $flags == *" asimd "* ]]; then
		ok "CPU: an ARMv8 with vector instructions"
		return
	fi
	if [[ $flags != *" sse4_2 "* ]]; then
		fail "CPU lacks sse4_2, which DPDK is compiled for"
		return
	fi
	for flag in avx2 aes pclmulqdq constant_tsc nonstop_tsc; do
		[[ $flags == *" $flag "* ]] || missing+=("$flag")
	done
	if ((${#missing[@]})); then
		warn "CPU lacks ${missing[*]}: slower drivers (avx2), encryption (aes, pclmulqdq) or clock (tsc)"
	else
		ok "CPU flags: sse4_2 avx2 aes pclmulqdq constant_tsc nonstop_tsc"
	fi
}

check_cpus() {
	local cpu absent=() twice
	local -a cpus
	mapfile -t cpus < <(online)
	for cpu in "${pinned[@]}"; do contains "$cpu" "${cpus[@]}" || absent+=("$cpu"); done
	if ((${#absent[@]})); then
		fail "CPU $(join "${absent[@]}") not online; there are: $(content /sys/devices/system/cpu/online)"
		return
	fi
	twice=$(printf '%s\n' "${assigned[@]}" | sort -n | uniq -d | paste -sd,)
	if [[ -n $twice && $idle == spin ]]; then
		fail "CPU $twice is given to two parts that both spin: give each its own, or idle = \"sleep\""
	elif [[ -n $twice ]]; then
		warn "CPU $twice is given to two parts: each delays the other"
	fi
	if [[ -z $(other_cpus) ]]; then
		warn "no CPU is left for the system and for interrupts: leave one out"
	else
		ok "CPUs: workers $(join "${workers[@]}"), all pinned $(join "${pinned[@]}"), others $(other_cpus | paste -sd,)"
	fi
	check_siblings
}

# Two threads of one physical core slow each other.
check_siblings() {
	local cpu sibling
	for cpu in "${workers[@]}"; do
		for sibling in $(expand "$(content "/sys/devices/system/cpu/cpu$cpu/topology/thread_siblings_list")"); do
			contains "$sibling" "${pinned[@]}" || continue
			# Two workers are named once.
			if [[ $sibling -gt $cpu ]] || { [[ $sibling != "$cpu" ]] && ! contains "$sibling" "${workers[@]}"; }; then
				warn "CPU $cpu and $sibling are threads of one core: give workers a core each"
			fi
		done
	done
}

check_isolation() {
	local cpu list shared=() ticking=()
	local -a isolated quiet
	mapfile -t isolated < <(expand "$(content /sys/devices/system/cpu/isolated)")
	mapfile -t quiet < <(expand "$(content /sys/devices/system/cpu/nohz_full | tr -d '()' | sed 's/null//')")
	for cpu in "${pinned[@]}"; do
		contains "$cpu" "${isolated[@]}" || shared+=("$cpu")
		contains "$cpu" "${quiet[@]}" || ticking+=("$cpu")
	done
	list=$(join "${pinned[@]}")
	if ((${#shared[@]})); then
		warn "CPU $(join "${shared[@]}") not isolated: kernel command line isolcpus=managed_irq,domain,$list"
	else
		ok "isolated CPUs: $list"
	fi
	if ((${#ticking[@]})); then
		warn "CPU $(join "${ticking[@]}") with timer tick: kernel command line nohz_full=$list rcu_nocbs=$list"
	else
		ok "no timer tick on CPUs $list"
	fi
	if pgrep -x irqbalance >/dev/null 2>&1 && [[ -z $root ]]; then
		warn "irqbalance runs and may move interrupts back: IRQBALANCE_BANNED_CPULIST=$list, or stop it"
	fi
}

check_numa() {
	local device node nodes
	local -a near
	mapfile -t near < <(worker_nodes)
	nodes=$(join "${near[@]}")
	[[ $nodes != *,* ]] || warn "workers are on NUMA nodes $nodes: packets cross between them"
	for device in "${pci[@]}"; do
		node=$(content "/sys/bus/pci/devices/$device/numa_node")
		# -1 is a machine that does not say.
		if [[ -z $node || $node == -1 ]] || contains "$node" "${near[@]}"; then
			ok "NUMA: $device is on node ${node:-unknown}, workers on $nodes"
		else
			warn "NUMA: $device is on node $node, workers on $nodes: choose worker CPUs of node $node"
		fi
	done
	if [[ $(content /proc/sys/kernel/numa_balancing) == 1 ]]; then
		warn "NUMA balancing moves pages under the workers: sysctl kernel.numa_balancing=0"
	elif ((${#pci[@]} == 0)); then
		ok "NUMA: workers on node $nodes"
	fi
}

check_iommu() {
	local device needed=no
	for device in "${pci[@]}"; do bifurcated "$(pci_driver "$device")" || needed=yes; done
	if [[ $needed == no ]]; then
		ok "IOMMU: no configured device needs it"
	elif iommu_active; then
		ok "IOMMU is active"
	elif noiommu_allowed; then
		warn "no IOMMU, unsafe mode allowed: a device can write anywhere in memory"
	else
		fail "no IOMMU, vfio-pci will refuse: switch it on in the firmware, kernel command line intel_iommu=on iommu=pt (AMD: iommu=pt); last resort: modprobe vfio enable_unsafe_noiommu_mode=1"
	fi
}

check_hugepages() {
	local reserved total node share have short=()
	if [[ $hugepages != true ]]; then
		if ((${#pci[@]})); then
			fail "hugepages = false with PCI devices: they need hugepages (hugepages.md)"
		else
			ok "hugepages: not used by this configuration (slower, hugepages.md)"
		fi
		return
	fi
	if ! compgen -G "$root/sys/kernel/mm/hugepages/hugepages-*" >/dev/null; then
		fail "this kernel has no hugepages (CONFIG_HUGETLBFS); without: hugepages = false"
		return
	fi
	reserved=$(reserved_mb)
	total=$(($(content /proc/meminfo | awk '/^MemTotal/ { print $2 }') / 1024))
	if ((memory_mb >= total)); then
		fail "memory_mb = $memory_mb exceeds the machine's $total MB"
		return
	fi
	share=$(node_share_mb)
	for node in $(worker_nodes); do
		have=$(reserved_mb "$node")
		((have >= share)) || short+=("node $node has $have of $share MB")
	done
	if ((${#short[@]})); then
		warn "hugepages: $reserved MB reserved, $memory_mb MB wanted ($(join "${short[@]}")): boot.sh reserves them; surer on the kernel command line: hugepages=$(((memory_mb + 1) / 2))"
	else
		ok "hugepages: $reserved MB reserved, $memory_mb MB wanted"
	fi
	if hugetlbfs_mounted; then
		ok "hugetlbfs is mounted"
	else
		warn "hugetlbfs is not mounted: boot.sh mounts it on /dev/hugepages"
	fi
}

check_drivers() {
	local device driver routes
	if ((${#pci[@]} == 0)); then
		ok "drivers: no PCI device configured"
		return
	fi
	for device in "${pci[@]}"; do
		if [[ ! -e $root/sys/bus/pci/devices/$device ]]; then
			fail "PCI device $device does not exist: lspci -D"
			continue
		fi
		driver=$(pci_driver "$device")
		routes=$(default_routes "$device" | paste -sd,)
		if [[ $driver == vfio-pci ]] || bifurcated "$driver"; then
			ok "$device is on $driver"
		elif [[ -n $routes ]]; then
			fail "$device is $routes, which has the default route: the machine would be cut off; choose another"
		else
			warn "$device is on ${driver:-no driver}: boot.sh binds it to vfio-pci"
		fi
	done
	if [[ ! -d $root/sys/bus/pci/drivers/vfio-pci ]] && ! modinfo vfio-pci >/dev/null 2>&1; then
		warn "the driver vfio-pci is neither loaded nor a module of this kernel"
	fi
}

check_clock() {
	local source
	source=$(content /sys/devices/system/clocksource/clocksource0/current_clocksource)
	case $source in
	tsc | arch_sys_counter) ok "clock source: $source" ;;
	*) warn "clock source is ${source:-unknown}: tsc is cheapest (kernel command line tsc=reliable if the machine's is)" ;;
	esac
}

check_governor() {
	local cpu governor slow=() seen=no
	for cpu in "${pinned[@]}"; do
		governor=$(content "/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor")
		[[ -z $governor ]] || seen=yes
		[[ -z $governor || $governor == performance ]] || slow+=("$cpu ($governor)")
	done
	if ((${#slow[@]})); then
		warn "governor of CPU $(join "${slow[@]}"): boot.sh sets performance"
	elif [[ $seen == yes ]]; then
		ok "governor: performance"
	else
		ok "governor: the kernel does not scale the frequency here"
	fi
}

# ---- act ----

# Runs a command, or prints it.
run() {
	if [[ $mode == dry-run ]]; then
		printf '+ %s\n' "$*"
	else
		"$@"
	fi
}

# Writes a value into a file of /proc or /sys, or prints that.
write() {
	if [[ $mode == dry-run ]]; then
		printf '+ echo %s > %s\n' "$1" "$2"
	else
		{ echo "$1" >"$2"; } 2>/dev/null
	fi
}

# What each worker's NUMA node must have: its part of memory_mb, rounded up to pages of 2 MB.
node_share_mb() {
	local nodes pages
	nodes=$(worker_nodes | wc -l)
	pages=$(((memory_mb + 2 * nodes - 1) / (2 * nodes)))
	echo $((pages * 2))
}

reserve_hugepages() {
	local node share have file now wanted
	[[ $hugepages == true ]] || return 0
	share=$(node_share_mb)
	for node in $(worker_nodes); do
		# All sizes count: pages of 1 GB from the kernel command line will do.
		have=$(reserved_mb "$node")
		((have < share)) || continue
		file=/sys/devices/system/node/node$node/hugepages/hugepages-2048kB/nr_hugepages
		now=$(content "$file")
		wanted=$((${now:-0} + (share - have + 1) / 2))
		write "$wanted" "$file" || die "cannot write $file"
		[[ $mode != dry-run ]] || continue
		have=$(reserved_mb "$node")
		((have >= share)) ||
			die "only $have of $share MB of hugepages could be had on NUMA node $node: memory is fragmented or short; reserve them on the kernel command line (hugepages.md)"
	done
}

mount_hugepages() {
	[[ $hugepages == true ]] || return 0
	! hugetlbfs_mounted || return 0
	run mkdir -p /dev/hugepages
	run mount -t hugetlbfs nodev /dev/hugepages
}

bind_devices() {
	local device driver routes folder loaded=no
	for device in "${pci[@]}"; do
		folder=/sys/bus/pci/devices/$device
		[[ -e $root$folder ]] || die "PCI device $device does not exist: lspci -D"
		driver=$(pci_driver "$device")
		[[ $driver != vfio-pci ]] || continue
		! bifurcated "$driver" || continue
		routes=$(default_routes "$device" | paste -sd,)
		[[ -z $routes ]] || die "$device is $routes, which has the default route: taking it would cut the machine off"
		iommu_active || noiommu_allowed || die "no IOMMU: $0 --check says what would be right"
		if [[ $loaded == no && ! -d $root/sys/bus/pci/drivers/vfio-pci ]]; then
			run modprobe vfio-pci || die "the driver vfio-pci cannot be loaded"
		fi
		loaded=yes
		# What driverctl does: the device prefers one driver, leaves its own, and is probed again.
		write vfio-pci "$folder/driver_override" || die "cannot set $folder/driver_override"
		if [[ -n $driver ]]; then
			write "$device" "$folder/driver/unbind" || die "$device does not leave its driver $driver"
		fi
		write "$device" /sys/bus/pci/drivers_probe || true
		[[ $mode == dry-run || $(pci_driver "$device") == vfio-pci ]] ||
			die "$device did not bind to vfio-pci: dmesg | tail"
	done
}

# A mask such as f,ffffffff of the CPUs given as words: groups of 32, highest first.
cpu_mask() {
	local cpu group highest=0 text=
	local -A groups=()
	for cpu in "$@"; do
		group=$((cpu / 32))
		groups[$group]=$((${groups[$group]:-0} | 1 << cpu % 32))
		((group <= highest)) || highest=$group
	done
	for ((group = highest; group >= 0; group--)); do
		if [[ -z $text ]]; then
			text=$(printf '%x' "${groups[$group]:-0}")
		else
			text+=$(printf ',%08x' "${groups[$group]:-0}")
		fi
	done
	echo "$text"
}

move_interrupts() {
	local file list cpu busy stuck=0
	local -a others
	mapfile -t others < <(other_cpus)
	if ((${#others[@]} == 0)); then
		echo "boot: every CPU is pinned, interrupts stay where they are" >&2
		return
	fi
	write_mask "$(cpu_mask "${others[@]}")" /proc/irq/default_smp_affinity
	if [[ -e $root/sys/devices/virtual/workqueue/cpumask ]]; then
		write_mask "$(cpu_mask "${others[@]}")" /sys/devices/virtual/workqueue/cpumask
	fi
	list=$(join "${others[@]}")
	for file in "$root"/proc/irq/[0-9]*/smp_affinity_list; do
		[[ -r $file ]] || continue
		busy=no
		for cpu in $(expand "$(<"$file")"); do
			! contains "$cpu" "${pinned[@]}" || busy=yes
		done
		# A per-CPU or kernel-managed interrupt cannot be moved.
		[[ $busy == no ]] || write "$list" "${file#"$root"}" || stuck=$((stuck + 1))
	done
	((stuck == 0)) || echo "boot: $stuck interrupts are bound to their CPUs by the kernel and stay" >&2
}

# Writes a mask that is not there already; the kernel pads with zeros and groups.
write_mask() {
	local now
	now=$(content "$2" | sed 's/^[0,]*//')
	[[ ${now:-0} == "$1" ]] || write "$1" "$2" || echo "boot: $2 stays ${now:-0}" >&2
}

set_governors() {
	local cpu file governor
	for cpu in "${pinned[@]}"; do
		file=/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor
		governor=$(content "$file")
		[[ -z $governor || $governor == performance ]] || write performance "$file" ||
			echo "boot: the governor of CPU $cpu stays $governor" >&2
	done
}

start_daemon() {
	[[ $start == yes ]] || return 0
	if [[ $mode == dry-run ]]; then
		run exec ravelind --config "$config"
	else
		exec ravelind --config "$config"
	fi
}

main "$@"

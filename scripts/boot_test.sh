#!/usr/bin/env bash
# Tests boot.sh on made-up machines: folders with the files of /proc and /sys that it reads. Needs no
# root and changes nothing outside a temporary folder.
# shellcheck disable=SC2016 # expect's strings are literal
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
boot=$here/boot.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failures=0

# ---- made-up machines and programs ----

put() {
	mkdir -p "$(dirname "$tree$1")"
	printf '%s\n' "$2" >"$tree$1"
}

# A machine as it comes: 8 CPUs on 2 NUMA nodes, two devices on node 1, nothing prepared.
machine() {
	tree=$work/machine$((++machines))
	export RAVELIN_BOOT_ROOT=$tree
	local cpu device
	put /proc/cpuinfo "flags : fpu sse4_2 avx2 aes pclmulqdq constant_tsc nonstop_tsc"
	put /proc/meminfo "MemTotal: 33554432 kB"
	put /proc/mounts "proc /proc proc rw 0 0"
	put /proc/net/route "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eno1 00000000 0102030A 0003 0 0 0 00000000 0 0 0
eno1 0002030A 00000000 0001 0 0 0 00FFFFFF 0 0 0"
	put /proc/sys/kernel/numa_balancing 0
	put /proc/irq/default_smp_affinity ff
	put /proc/irq/10/smp_affinity_list 0-7
	put /proc/irq/11/smp_affinity_list 0-3
	put /proc/irq/12/smp_affinity_list 6
	put /sys/devices/virtual/workqueue/cpumask ff
	put /sys/devices/system/cpu/online 0-7
	put /sys/devices/system/cpu/isolated ""
	put /sys/devices/system/cpu/nohz_full "(null)"
	put /sys/devices/system/clocksource/clocksource0/current_clocksource tsc
	put /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 0
	for cpu in {0..7}; do
		mkdir -p "$tree/sys/devices/system/cpu/cpu$cpu/node$((cpu / 4))"
		put "/sys/devices/system/cpu/cpu$cpu/topology/thread_siblings_list" "$cpu"
		put "/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor" powersave
	done
	for cpu in 0 1; do put "/sys/devices/system/node/node$cpu/hugepages/hugepages-2048kB/nr_hugepages" 0; done
	mkdir -p "$tree/sys/kernel/iommu_groups/7" "$tree/sys/bus/pci/drivers/ixgbe"
	for device in 0000:81:00.0 0000:81:00.1; do
		put "/sys/bus/pci/devices/$device/numa_node" 1
		ln -s ../../drivers/ixgbe "$tree/sys/bus/pci/devices/$device/driver"
		mkdir -p "$tree/sys/bus/pci/devices/$device/net/ens${device: -1}"
	done
}
machines=0

# The same machine after boot.sh and a kernel command line as advised.
prepare() {
	local cpu device
	put /proc/mounts "nodev /dev/hugepages hugetlbfs rw 0 0"
	put /proc/irq/default_smp_affinity 0f
	put /proc/irq/10/smp_affinity_list 0-3
	put /proc/irq/12/smp_affinity_list 0,3
	put /sys/devices/virtual/workqueue/cpumask 0f
	put /sys/devices/system/cpu/isolated 4-7
	put /sys/devices/system/cpu/nohz_full 4-7
	put /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages 513
	put /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages 513
	for cpu in {4..7}; do put "/sys/devices/system/cpu/cpu$cpu/cpufreq/scaling_governor" performance; done
	mkdir -p "$tree/sys/bus/pci/drivers/vfio-pci"
	for device in 0000:81:00.0 0000:81:00.1; do
		ln -sfn ../../drivers/vfio-pci "$tree/sys/bus/pci/devices/$device/driver"
	done
}

summary='{"hugepages":true,"memory_mb":1025,"pci":["0000:81:00.0","0000:81:00.1"],"worker_cpus":[4,5],"sync_cpu":6,"membership_cpu":7,"idle":"spin"}'
# configuration FILTER: the summary changed by a jq filter is what `ravelin check` says from now on.
configuration() { jq -c "{ok: true, summary: (. | $1)}" <<<"$summary" >"$work/answer"; }

mkdir "$work/bin"
cat >"$work/bin/ravelin" <<-EOF
	#!/bin/sh
	[ "\$*" = "check --json $work/node.toml" ] || { echo "ravelin was called with: \$*" >&2; exit 9; }
	cat "$work/answer"
EOF
# No module of that name, and nothing that changes a machine may be called.
printf '#!/bin/sh\nexit 1\n' >"$work/bin/modinfo"
for program in ravelind modprobe mount; do
	printf '#!/bin/sh\necho "%s $*" >>"%s/called"\n' "$program" "$work" >"$work/bin/$program"
done
chmod +x "$work/bin/"*
export PATH=$work/bin:$PATH

# ---- assertions ----

# Runs boot.sh; leaves its status in `status` and what it printed in `output`.
boot() {
	local before
	before=$(fingerprint)
	status=0
	output=$("$boot" --config "$work/node.toml" "$@" 2>&1) || status=$?
	[[ $(fingerprint) == "$before" ]] || problem "it changed the machine: $*"
}

fingerprint() { find "$tree" \( -type f -exec cksum {} + \) -o \( -type l -printf '%p %l\n' \) | sort; }

problem() {
	echo "FAIL $name: $1"
	[[ -z ${output:-} ]] || printf '%s\n' "$output" | sed 's/^/     | /'
	failures=$((failures + 1))
}

expect_status() { [[ $status == "$1" ]] || problem "status $status, not $1"; }
expect() { grep -qF -- "$1" <<<"$output" || problem "no line with: $1"; }
expect_none() { ! grep -qE -- "$1" <<<"$output" || problem "a line with: $1"; }
expect_exactly() { [[ $output == "$1" ]] || problem "not exactly: $1"; }

# ---- tests ----

name="a prepared machine has nothing to complain of"
machine && prepare && configuration .
boot --check
expect_status 0
expect "OK    CPU flags: sse4_2 avx2"
expect "OK    CPUs: workers 4,5, all pinned 4,5,6,7, others 0,1,2,3"
expect "OK    isolated CPUs: 4,5,6,7"
expect "OK    no timer tick on CPUs 4,5,6,7"
expect "OK    NUMA: 0000:81:00.1 is on node 1, workers on 1"
expect "OK    IOMMU is active"
expect "OK    hugepages: 1026 MB reserved, 1025 MB wanted"
expect "OK    hugetlbfs is mounted"
expect "OK    0000:81:00.0 is on vfio-pci"
expect "OK    clock source: tsc"
expect "OK    governor: performance"
expect_none "^FAIL"
expect_none "^WARN  [^n]" # but perhaps "not root"

name="booting a prepared machine only starts"
boot --dry-run
expect_status 0
expect_exactly "+ exec ravelind --config $work/node.toml"
boot --dry-run --no-start
expect_exactly ""

name="a machine as it comes gets warnings with what would be right, but can be booted"
machine && configuration .
boot --check
expect_status 0
expect "WARN  CPU 4,5,6,7 not isolated: kernel command line isolcpus=managed_irq,domain,4,5,6,7"
expect "nohz_full=4,5,6,7 rcu_nocbs=4,5,6,7"
expect "WARN  hugepages: 0 MB reserved, 1025 MB wanted (node 1 has 0 of 1026 MB)"
expect "WARN  hugetlbfs is not mounted"
expect "WARN  0000:81:00.0 is on ixgbe: boot.sh binds it to vfio-pci"
expect "WARN  governor of CPU 4 (powersave),5 (powersave)"
expect_none "^FAIL"

name="the dry run prints every change"
boot --dry-run
expect_status 0
expect_exactly "+ echo 513 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages
+ mkdir -p /dev/hugepages
+ mount -t hugetlbfs nodev /dev/hugepages
+ modprobe vfio-pci
+ echo vfio-pci > /sys/bus/pci/devices/0000:81:00.0/driver_override
+ echo 0000:81:00.0 > /sys/bus/pci/devices/0000:81:00.0/driver/unbind
+ echo 0000:81:00.0 > /sys/bus/pci/drivers_probe
+ echo vfio-pci > /sys/bus/pci/devices/0000:81:00.1/driver_override
+ echo 0000:81:00.1 > /sys/bus/pci/devices/0000:81:00.1/driver/unbind
+ echo 0000:81:00.1 > /sys/bus/pci/drivers_probe
+ echo f > /proc/irq/default_smp_affinity
+ echo f > /sys/devices/virtual/workqueue/cpumask
+ echo 0,1,2,3 > /proc/irq/10/smp_affinity_list
+ echo 0,1,2,3 > /proc/irq/12/smp_affinity_list
+ echo performance > /sys/devices/system/cpu/cpu4/cpufreq/scaling_governor
+ echo performance > /sys/devices/system/cpu/cpu5/cpufreq/scaling_governor
+ echo performance > /sys/devices/system/cpu/cpu6/cpufreq/scaling_governor
+ echo performance > /sys/devices/system/cpu/cpu7/cpufreq/scaling_governor
+ exec ravelind --config $work/node.toml"

name="hugepages are shared out to the workers' NUMA nodes, and what is there counts"
machine && configuration '.pci = [] | .worker_cpus = [2, 5] | .memory_mb = 1000'
put /sys/devices/system/node/node1/hugepages/hugepages-1048576kB/nr_hugepages 1
put /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages 50
boot --dry-run
expect "+ echo 250 > /sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages"
expect_none "node1/hugepages"

name="software devices need no preparation"
machine && configuration '.hugepages = false | .pci = [] | .idle = "sleep"'
put /sys/devices/system/cpu/isolated 4-7
boot --dry-run
expect_none "hugepages|vfio|modprobe|mount"
boot --check
expect_status 0
expect "OK    hugepages: not used"
expect "OK    IOMMU: no configured device needs it"
expect "OK    drivers: no PCI device configured"

name="what cannot work fails"
machine && configuration '.worker_cpus = [4, 9] | .memory_mb = 99999 | .pci += ["0000:99:00.0"]'
rmdir "$tree/sys/kernel/iommu_groups/7"
put /proc/cpuinfo "flags : fpu sse2"
boot --check
expect_status 1
expect "FAIL  CPU 9 not online; there are: 0-7"
expect "FAIL  CPU lacks sse4_2"
expect "FAIL  no IOMMU, vfio-pci will refuse"
expect "FAIL  memory_mb = 99999 exceeds the machine's 32768 MB"
expect "FAIL  PCI device 0000:99:00.0 does not exist"
boot --dry-run
expect_status 1

name="hugepages are not optional for real devices"
machine && configuration '.hugepages = false'
boot --check
expect_status 1
expect "FAIL  hugepages = false with PCI devices"

name="a spinning part has its CPU alone"
machine && configuration '.sync_cpu = 5'
boot --check
expect_status 1
expect "FAIL  CPU 5 is given to two parts that both spin"
configuration '.sync_cpu = 5 | .idle = "sleep"'
boot --check
expect_status 0
expect "WARN  CPU 5 is given to two parts: each delays the other"

name="threads of one core, foreign NUMA nodes, a slow clock"
machine && configuration '.worker_cpus = [1, 5]'
put /sys/devices/system/cpu/cpu1/topology/thread_siblings_list 1,5
put /sys/devices/system/cpu/cpu5/topology/thread_siblings_list 1,5
put /sys/devices/system/clocksource/clocksource0/current_clocksource hpet
put /sys/bus/pci/devices/0000:81:00.0/numa_node 3
boot --check
expect "WARN  CPU 1 and 5 are threads of one core"
expect "WARN  workers are on NUMA nodes 0,1"
expect "WARN  NUMA: 0000:81:00.0 is on node 3, workers on 0,1: choose worker CPUs of node 3"
expect "WARN  clock source is hpet"

name="the interface with the default route is not taken away"
machine && configuration .
mkdir "$tree/sys/bus/pci/devices/0000:81:00.1/net/eno1"
boot --check
expect_status 1
expect "FAIL  0000:81:00.1 is eno1, which has the default route"
boot --dry-run
expect_status 1
expect_none "0000:81:00.1 >"

name="a device that DPDK shares with its kernel driver keeps it, and needs no IOMMU"
machine && configuration '.pci = ["0000:81:00.0"]'
mkdir "$tree/sys/bus/pci/drivers/mlx5_core"
rmdir "$tree/sys/kernel/iommu_groups/7"
ln -sfn ../../drivers/mlx5_core "$tree/sys/bus/pci/devices/0000:81:00.0/driver"
boot --check
expect "OK    0000:81:00.0 is on mlx5_core"
expect "OK    IOMMU: no configured device needs it"
boot --dry-run
expect_none "vfio"

name="masks of more than 32 CPUs come in groups"
machine && configuration '.hugepages = false | .pci = []'
put /sys/devices/system/cpu/online 0-39
put /proc/irq/default_smp_affinity ff,ffffffff
boot --dry-run
expect "+ echo ff,ffffff0f > /proc/irq/default_smp_affinity"

name="a wrong configuration is shown"
machine
echo '{"ok":false,"errors":["line 3: no such key"]}' >"$work/answer"
boot --check
expect_status 1
expect "line 3: no such key"
expect "is not a valid configuration"

name="nothing of the configuration is taken for a path or a command"
configuration '.pci = ["../../../etc"]'
boot --dry-run
expect_status 1
expect "is not a PCI address"
configuration '.worker_cpus = ["0; reboot"]'
boot --dry-run
expect_status 1
expect "is not the number of a CPU"

name="a made-up machine is for looking at only"
configuration .
boot
expect_status 1
expect "RAVELIN_BOOT_ROOT is for --check and --dry-run"

name="without root it prepares nothing and says so"
unset RAVELIN_BOOT_ROOT
if ((EUID == 0)); then
	chmod -R a+rX "$work"
	status=0
	output=$(setpriv --reuid=65534 --clear-groups bash -s -- --no-start --config "$work/node.toml" <"$boot" 2>&1) || status=$?
else
	boot --no-start
fi
expect_status 1
expect "preparing a node needs root"

name="unknown options and help"
boot --chekc
expect_status 1
expect "unknown option --chekc"
boot --help
expect_status 0
expect "boot.sh --check             report on the machine"

name="no program that changes a machine was called"
output=
[[ ! -e $work/called ]] || problem "$(cat "$work/called")"

if ((failures)); then
	echo "boot_test: $failures failures"
	exit 1
fi
echo "boot_test: all passed"

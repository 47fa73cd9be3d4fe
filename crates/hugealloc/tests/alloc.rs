//! The allocator as a program's own: everything that this test allocates comes from it.
#![forbid(unsafe_code)]

use hugealloc::{HUGE_PAGE, HugeAlloc};

#[global_allocator]
static ALLOCATOR: HugeAlloc = HugeAlloc;

#[test]
fn large_allocations_begin_at_a_huge_page_and_keep_what_is_in_them() {
    let mut numbers: Vec<u64> = Vec::with_capacity(16);
    // Grows from small to large, over the border between both kinds.
    numbers.extend(0..2_000_000);
    assert!(numbers.capacity() * 8 >= 2 * HUGE_PAGE);
    assert!(numbers.as_ptr().addr().is_multiple_of(HUGE_PAGE));
    assert!(numbers.iter().copied().eq(0..2_000_000));
    numbers.truncate(10);
    numbers.shrink_to_fit();
    assert!(numbers.iter().copied().eq(0..10));
    let zeroes = vec![0u8; 5 << 20];
    assert!(zeroes.as_ptr().addr().is_multiple_of(HUGE_PAGE));
    assert!(zeroes.iter().all(|b| *b == 0));
}

/// Where the kernel gives huge pages to who asks, a large allocation gets them.
#[test]
fn the_kernel_gives_huge_pages() {
    let setting = std::fs::read_to_string("/sys/kernel/mm/transparent_hugepage/enabled");
    if !setting.is_ok_and(|s| s.contains("[madvise]") || s.contains("[always]")) {
        println!("not tried: transparent huge pages are off on this machine");
        return;
    }
    let memory = vec![7u8; 64 << 20];
    let huge = huge_kib(memory.as_ptr().addr());
    assert!(huge >= 32 << 10, "{huge} KiB of 64 MiB in huge pages");
}

/// How much of the mapping at an address is in huge pages, by the kernel's account.
fn huge_kib(address: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("Linux has it");
    let mut here = false;
    for line in maps.lines() {
        let range = line.split(' ').next().and_then(|r| r.split_once('-'));
        let number = |text| usize::from_str_radix(text, 16);
        if let Some((Ok(from), Ok(to))) = range.map(|(from, to)| (number(from), number(to))) {
            here = (from..to).contains(&address);
        } else if here && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kib = rest.trim().trim_end_matches(" kB");
            return kib.parse().expect("a number");
        }
    }
    panic!("the address is mapped");
}

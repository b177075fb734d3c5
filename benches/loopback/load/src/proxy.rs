//! What the proxy has used so far: its process and those that it has started.

use std::fs;

/// Nanoseconds on a processor, by the scheduler's account. Threads must not end in between.
pub fn processor_nanos(process: u32) -> u64 {
    let threads = family(process).into_iter().flat_map(threads);
    threads.filter_map(|schedstat| fs::read_to_string(schedstat).ok()?.split(' ').next()?.parse::<u64>().ok()).sum()
}

/// How often its threads went to sleep by themselves: one wake-up each.
pub fn sleeps(process: u32) -> u64 {
    let threads = family(process).into_iter().flat_map(threads);
    let of_one = |schedstat: String| {
        let status = fs::read_to_string(schedstat.replace("schedstat", "status")).ok()?;
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    threads.filter_map(of_one).sum()
}

/// KiB of memory that are its own: what is shared counts for its share.
pub fn memory_kib(process: u32) -> u64 {
    let of_one = |process| {
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
        rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<u64>().ok())
    };
    family(process).into_iter().filter_map(of_one).sum()
}

fn family(process: u32) -> Vec<u32> {
    let mut all = vec![process];
    let mut at = 0;
    while let Some(process) = all.get(at).copied() {
        at += 1;
        for thread in threads(process) {
            let children = fs::read_to_string(thread.replace("schedstat", "children")).unwrap_or_default();
            all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        }
    }
    all
}

fn threads(process: u32) -> Vec<String> {
    let folder = format!("/proc/{process}/task");
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| format!("{}/schedstat", entry.path().display())).collect()
}

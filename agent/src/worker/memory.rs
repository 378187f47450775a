//! How much memory a process uses.

use std::fs;

/// Its share of physical memory (PSS) where the system tells it to this process, else what it has resident (RSS).
/// `None` when the process is gone or the system tells neither.
pub fn memory_bytes(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok();
    let pss = rollup.as_deref().and_then(|text| text.lines().find_map(|l| l.strip_prefix("Pss:")));
    let pss = pss.and_then(|rest| rest.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    pss.map(|kib| kib << 10).or_else(|| {
        let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
        let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
        // SAFETY: sysconf reads a number and touches no memory of ours.
        let page = u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).ok()?;
        Some(pages * page)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    #[cfg(target_os = "linux")]
    fn this_process_uses_some() {
        assert!(super::memory_bytes(std::process::id()).is_some_and(|bytes| bytes > 100_000));
    }
}

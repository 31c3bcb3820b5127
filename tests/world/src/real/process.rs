//! What programs cost, read from `/proc`, and how they are ended.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// `USER_HZ` of Linux on every architecture that we build for.
const TICKS_PER_SECOND: f64 = 100.0;
/// How often memory is looked at. Each look walks the page tables of all processes, so not more
/// often.
const SAMPLE: Duration = Duration::from_millis(500);
/// How long a process may take to end before it is killed.
const END_STEPS: u32 = 100;
const END_STEP: Duration = Duration::from_millis(100);

/// CPU time and memory of a process and everything below it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// User and system time so far, with that of ended children, in seconds.
    pub cpu_seconds: f64,
    /// Proportional set size of all of them now, in KiB.
    pub pss_kib: u64,
    /// Resident set size of all of them now, in KiB; what they share counts for each.
    pub resident_kib: u64,
}

impl Usage {
    /// Of the tree below `root`, itself included.
    pub fn of_tree(root: u32) -> Self {
        let mut usage = Self::default();
        for pid in tree(root) {
            usage.cpu_seconds += cpu_seconds(pid);
            usage.pss_kib += pss_kib(pid);
            usage.resident_kib += memory_kib(pid, "Rss:");
        }
        usage
    }

    /// Of one process, with its ended children but not with those that run.
    pub fn of_process(pid: u32) -> Self {
        Self {
            cpu_seconds: cpu_seconds(pid),
            pss_kib: pss_kib(pid),
            resident_kib: memory_kib(pid, "Rss:"),
        }
    }

    /// The most that was resident of a process at any moment, in KiB.
    pub fn resident_peak_kib(pid: u32) -> u64 {
        kib_of(&format!("/proc/{pid}/status"), "VmHWM:")
    }
}

/// Samples the memory of a tree until it is asked for the peak.
#[derive(Debug)]
pub struct PeakMemory {
    peak_kib: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl PeakMemory {
    /// Begins to watch `root` and everything below it.
    pub fn watch(root: u32) -> Self {
        let peak_kib = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let (peak, stopped) = (Arc::clone(&peak_kib), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            loop {
                // The last look is after the end was asked for, so that a short life has one at
                // all.
                let is_last = stopped.load(Ordering::Acquire);
                let now = tree(root).into_iter().map(pss_kib).sum();
                peak.fetch_max(now, Ordering::Relaxed);
                if is_last {
                    return;
                }
                std::thread::park_timeout(SAMPLE);
            }
        });
        Self { peak_kib, stop, thread: Some(thread) }
    }

    /// The most it ever was, in KiB.
    pub fn finish(mut self) -> u64 {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            thread.join().expect("the sampler does not panic");
        }
        self.peak_kib.load(Ordering::Relaxed)
    }
}

/// Asks `pid` to end, kills it after ten seconds, and returns when it is gone or a zombie.
pub fn terminate(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    if kill_process(pid, Signal::TERM).is_err() {
        return;
    }
    for step in 0..END_STEPS * 2 {
        if test_kill_process(pid).is_err() || is_zombie(pid) {
            return;
        }
        if step == END_STEPS {
            // It had its time.
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::park_timeout(END_STEP);
    }
}

fn is_zombie(pid: Pid) -> bool {
    stat(pid.as_raw_nonzero().get().unsigned_abs()).is_none_or(|fields| fields[0] == "Z")
}

/// `root` and all its descendants.
fn tree(root: u32) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for pid in all_pids() {
        if let Some(parent) = stat(pid).and_then(|fields| fields[1].parse().ok()) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = vec![root];
    let mut at = 0;
    while let Some(pid) = found.get(at).copied() {
        found.extend(children.remove(&pid).unwrap_or_default());
        at += 1;
    }
    found
}

fn all_pids() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").expect("procfs");
    entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The fields of `/proc/PID/stat` behind the name: state first. `None` if the process is gone.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may have spaces and brackets of its own.
    let (_, fields) = text.rsplit_once(") ")?;
    Some(fields.split(' ').map(str::to_owned).collect())
}

/// utime, stime, cutime and cstime (proc(5), fields 14 to 17).
fn cpu_seconds(pid: u32) -> f64 {
    let Some(fields) = stat(pid) else { return 0.0 };
    let ticks: f64 = fields[11..15].iter().filter_map(|field| field.parse::<f64>().ok()).sum();
    ticks / TICKS_PER_SECOND
}

fn pss_kib(pid: u32) -> u64 {
    memory_kib(pid, "Pss:")
}

/// A sum from `/proc/PID/smaps_rollup`; 0 if the process is gone.
fn memory_kib(pid: u32, field: &str) -> u64 {
    kib_of(&format!("/proc/{pid}/smaps_rollup"), field)
}

/// A number of KiB from a file of procfs; 0 if the process is gone.
fn kib_of(file: &str, field: &str) -> u64 {
    let Ok(text) = fs::read_to_string(file) else { return 0 };
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_and_its_children_are_counted_and_ended() {
        let mut child = std::process::Command::new("sh")
            .args(["-c", "while :; do :; done & wait"])
            .spawn()
            .unwrap();
        let watch = PeakMemory::watch(child.id());
        while Usage::of_tree(child.id()).cpu_seconds < 0.05 {
            std::thread::yield_now();
        }
        assert_eq!(tree(child.id()).len(), 2);
        assert!(watch.finish() > 100);
        let pids = tree(child.id());
        for pid in pids {
            terminate(i32::try_from(pid).unwrap());
        }
        child.wait().unwrap();
    }
}

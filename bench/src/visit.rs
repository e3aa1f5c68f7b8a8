//! The bank as a workload: the time and the memory of many tasks.

use tantara_bank::{Audience, Pace, Plan, Reach};

/// Seconds for all customers, and bytes for each customer.
pub struct Visit {
    pub seconds: f64,
    pub bytes_per_customer: f64,
}

/// Includes creating the customers, serving them and ending the run.
pub fn by_tasks(count: usize) -> Visit {
    let before = peak_bytes();
    let began = std::time::Instant::now();
    let plan = Plan { customers: tantara_bank::crowd(count), workers: 4, pace: Pace::new(0.0).expect("0 is a pace") };
    let run = tantara_bank::run(Reach::Tasks, plan, Audience::nobody()).expect("the runtime starts");
    assert_eq!(run.summary.customers, count);
    let seconds = began.elapsed().as_secs_f64();
    Visit { seconds, bytes_per_customer: (peak_bytes() - before) / count as f64 }
}

/// The maximum resident memory of this process so far.
fn peak_bytes() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the kernel's account of this process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    let kibibytes: f64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kibibytes * 1024.0
}

//! A run as a trace: JSON in the Chrome trace event format, which Perfetto and `chrome://tracing`
//! open.

use std::io::{self, Write};
use std::time::Duration;

use serde_json::{Value, json};

use crate::script::Gate;
use crate::stage::{Phase, Run};

/// Writes the trace of a run whose record was kept: a track per customer, and a mark where each
/// event was set.
///
/// # Errors
///
/// If `out` cannot be written.
pub fn write(run: &Run, mut out: impl Write) -> io::Result<()> {
    out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[\n")?;
    let process = json!({"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "bank"}});
    write!(out, "{process}")?;
    let mut event = |event: Value| write!(out, ",\n{event}");
    for &(gate, at) in &run.opened {
        let name = format!("{} set", gate.event_name());
        event(json!({"ph": "i", "s": "g", "pid": 1, "tid": 0, "cat": "event", "name": name, "ts": micros(at)}))?;
    }
    for visit in &run.visits {
        // Track 0 is the manager's.
        let track = visit.customer + 1;
        let name = &*run.customers[visit.customer].name;
        event(json!({"ph": "M", "pid": 1, "tid": track, "name": "thread_name", "args": {"name": name}}))?;
        for span in &visit.spans {
            let (from, length) = (micros(span.from), micros(span.to.saturating_sub(span.from)));
            let name = title(span.phase);
            event(json!({
                "ph": "X", "pid": 1, "tid": track, "cat": "customer", "name": name, "ts": from, "dur": length,
            }))?;
        }
        if let Some(at) = visit.lost {
            let at = micros(at);
            event(json!({"ph": "i", "s": "t", "pid": 1, "tid": track, "cat": "customer", "name": "lost", "ts": at}))?;
        }
    }
    out.write_all(b"\n]}\n")?;
    out.flush()
}

fn title(phase: Phase) -> &'static str {
    match phase {
        Phase::Waiting(Gate::Bank) => "waiting for the bank",
        Phase::Waiting(Gate::Transactions) => "waiting for transactions",
        Phase::Served => "being served",
    }
}

fn micros(time: Duration) -> f64 {
    time.as_nanos() as f64 / 1e3
}

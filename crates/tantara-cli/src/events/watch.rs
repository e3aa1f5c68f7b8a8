//! `tantara watch`.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use crate::events::args::Watch;
use crate::events::origin::Origin;
use crate::events::place::{Place, Region};
use crate::events::printer::{Ended, Line, Printer};
use crate::events::text;
use crate::failure::Failure;
use crate::{local, output, system};

pub(crate) fn run(place: &Place, watch: &Watch, began: Instant) -> Result<(), Failure> {
    let print = Rc::new(Printer::new(watch.json, watch.most));
    // A deadline beyond the range of the clock counts as no deadline.
    let deadline = watch.timeout.and_then(|timeout| began.checked_add(timeout));
    if watch.timeout == Some(Duration::ZERO) {
        return Err(timed_out(watch, &print));
    }
    system::end_with_reader();
    let ended = match place {
        Place::Directory(directory) => local::watch(directory, &watch.names, &print, deadline)?,
        Place::Cluster(region) => watch_cluster(place, region, watch, &print, deadline)?,
    };
    match ended {
        Ended::Enough => Ok(()),
        Ended::TimedOut => Err(timed_out(watch, &print)),
    }
}

/// Reports the timeout if it came before the lines of `-n` were printed.
fn timed_out(watch: &Watch, print: &Printer) -> Failure {
    if let (Some(most), Some(left)) = (watch.most, print.left()) {
        let after = text::length(watch.timeout.unwrap_or_default());
        output::note(format_args!("timed out after {after}: {} of {most} changes", most - left));
    }
    Failure::timed_out()
}

fn watch_cluster(
    place: &Place,
    region: &Region,
    watch: &Watch,
    print: &Printer,
    deadline: Option<Instant>,
) -> Result<Ended, Failure> {
    let names = &watch.names;
    let mut changes = region.cluster.changes().map_err(Failure::of_cluster)?;
    if names.is_empty() && output::is_watched() {
        output::note(format_args!("watching {}", place.shown()));
    }
    let _outages = place.report_outages();
    loop {
        let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(Instant::now()));
        let Some(change) = changes.next_timeout(left).map_err(Failure::of_cluster)? else {
            return Ok(Ended::TimedOut);
        };
        if !names.is_empty() && !names.contains(&change.name) {
            continue;
        }
        let what = match (change.is_removed, change.is_set, change.sets) {
            (true, ..) => "removed",
            (_, true, _) => "set",
            (_, false, 0) => "cleared",
            (_, false, _) => "pulsed",
        };
        let sets = u32::try_from(change.sets).unwrap_or(u32::MAX);
        let state = if change.is_set { "set" } else { "unset" };
        let by = change.last_set.map(Origin::from);
        if print.line(&Line { at: SystemTime::now(), name: &change.name, change: what, state, sets, by })? {
            return Ok(Ended::Enough);
        }
    }
}

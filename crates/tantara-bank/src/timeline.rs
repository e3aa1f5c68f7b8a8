//! A run as an SVG picture: a lane per customer from top to bottom, time from left to right, and a
//! line where each event was set.
//!
//! With more customers the lanes become thinner. If there is no space for names, the lanes are
//! grouped by the type of the customers, so that the colours of different types do not blend. All
//! bars of one phase are one path, so a picture of ten thousand customers is still a small file
//! that can be zoomed into.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use svg::Document;
use svg::node::element::{Group, Line, Path, Rectangle, Text, Title};

use crate::advance;
use crate::customer::Kind;
use crate::script::Gate;
use crate::stage::{Phase, Run, Visit};

/// The maximum number of lanes. Of more customers, a sample is drawn.
const MOST_LANES: usize = 10_000;

const WIDTH: f64 = 1000.0;
const MARGIN: f64 = 24.0;
const TOP: f64 = 92.0;
const BOTTOM: f64 = 48.0;
/// The total height of the lanes if there are many.
const CROWD_HEIGHT: f64 = 800.0;
const LANE: f64 = 28.0;
const SMALLEST_NAMED_LANE: f64 = 12.0;

const NAME_SIZE: f64 = 12.0;
/// Limits of the column of names, as multiples of the font size.
const NARROWEST_NAME: f64 = 3.5;
const WIDEST_NAME: f64 = 14.0;

const FONT: &str = "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
const INK: &str = "#1f2430";
const FAINT: &str = "#6b7280";

/// The phases with their names and their colours, which colour-blind readers can distinguish, also
/// in print.
const PHASES: [(Phase, &str, &str); 3] = [
    (Phase::Waiting(Gate::Bank), "#b8c4d6", "waiting for the bank"),
    (Phase::Waiting(Gate::Transactions), "#e9a23b", "waiting for transactions"),
    (Phase::Served, "#2f7d6b", "being served"),
];

/// Draws a run whose record was kept.
///
/// # Errors
///
/// If `out` cannot be written.
pub fn write(run: &Run, mut out: impl io::Write) -> io::Result<()> {
    let mut sample = sample(&run.visits);
    let picture = Picture::new(run, sample.len());
    if !picture.is_named() {
        // A stable sort keeps the order within a type.
        sample.sort_by_key(|visit| run.customers[visit.customer].kind);
    }
    let document = Document::new()
        .set("viewBox", (0.0, 0.0, WIDTH, picture.bottom + BOTTOM))
        .set("width", WIDTH)
        .set("height", picture.bottom + BOTTOM)
        .set("font-family", FONT)
        .add(Title::new("A day at the bank"))
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(picture.heading(run, sample.len()))
        .add(picture.axis())
        .add(picture.bars(&sample))
        .add(picture.losses(&sample))
        .add(picture.names(run, &sample))
        .add(picture.openings(run));
    svg::write(&mut out, &document)?;
    out.write_all(b"\n")
}

/// The visits to draw: all, or an even sample.
fn sample(visits: &[Visit]) -> Vec<&Visit> {
    let lanes = visits.len().min(MOST_LANES);
    (0..lanes).map(|lane| &visits[lane * visits.len() / lanes]).collect()
}

/// The dimensions of one picture.
struct Picture {
    left: f64,
    bottom: f64,
    lane: f64,
    /// The length of the run in seconds; greater than zero.
    seconds: f64,
}

impl Picture {
    fn new(run: &Run, lanes: usize) -> Picture {
        let lane = LANE.min(CROWD_HEIGHT / lanes.max(1) as f64);
        let named = lane >= SMALLEST_NAMED_LANE;
        let widest = run.customers.iter().map(|customer| advance::width(&customer.name)).fold(NARROWEST_NAME, f64::max);
        let left = if named { MARGIN + 12.0 + NAME_SIZE * widest.min(WIDEST_NAME) } else { 96.0 };
        Picture { left, bottom: TOP + lane * lanes as f64, lane, seconds: run.summary.took.as_secs_f64().max(1e-6) }
    }

    fn is_named(&self) -> bool {
        self.lane >= SMALLEST_NAMED_LANE
    }

    fn x(&self, time: Duration) -> f64 {
        self.left + (WIDTH - MARGIN - self.left) * (time.as_secs_f64() / self.seconds).min(1.0)
    }

    fn heading(&self, run: &Run, lanes: usize) -> Group {
        let customers = run.customers.len();
        let mut told = format!(
            "{customers} customer{} in {}; at most {} waited at once",
            if customers == 1 { "" } else { "s" },
            seconds(run.summary.took.as_secs_f64()),
            run.summary.peak_waiting,
        );
        match run.summary.lost.len() {
            0 => {}
            1 => told.push_str("; one was lost (×)"),
            lost => _ = write!(told, "; {lost} were lost (×)"),
        }
        if lanes < customers {
            // Writing to a string cannot fail.
            let _ = write!(told, "; {lanes} of them are drawn");
        }
        let mut group = Group::new()
            .add(text("A day at the bank", MARGIN, 30.0, 18.0, INK).set("font-weight", 600))
            .add(text(told, WIDTH - MARGIN, 30.0, 12.0, FAINT).set("text-anchor", "end"));
        let mut x = MARGIN;
        for (_, colour, name) in PHASES {
            group = group
                .add(Rectangle::new().set("x", x).set("y", 44.0).set("width", 12).set("height", 12).set("fill", colour))
                .add(text(name, x + 18.0, 54.0, 12.0, INK));
            x += 40.0 + 6.4 * name.len() as f64;
        }
        group
    }

    /// Seconds along the bottom, with faint lines through the picture.
    fn axis(&self) -> Group {
        let mut group = Group::new();
        let step = nice_step(self.seconds / 8.0);
        let mut tick = 0.0;
        while tick <= self.seconds * 1.0001 {
            let x = self.x(Duration::from_secs_f64(tick));
            group = group
                .add(vertical(x, TOP, self.bottom + 4.0).set("stroke", "#e5e7eb"))
                .add(text(seconds(tick), x, self.bottom + 20.0, 11.0, FAINT).set("text-anchor", "middle"));
            tick += step;
        }
        group
    }

    /// A bar for every phase of every lane, one path for each colour.
    fn bars(&self, visits: &[&Visit]) -> Group {
        // Wide lanes have a gap between them.
        let air = if self.lane > 3.0 { self.lane * 0.2 } else { 0.0 };
        let mut group = Group::new();
        for (phase, colour, name) in PHASES {
            let mut data = String::new();
            for (lane, visit) in visits.iter().enumerate() {
                let y = TOP + self.lane * lane as f64 + air / 2.0;
                let height = self.lane - air;
                for span in visit.spans.iter().filter(|span| span.phase == phase) {
                    let (from, to) = (self.x(span.from), self.x(span.to));
                    // A bar has a minimum width, so that short phases are visible.
                    let width = (to - from).max(0.5);
                    // Writing to a string cannot fail.
                    let _ = write!(data, "M{from:.1} {y:.2}h{width:.1}v{height:.2}h-{width:.1}z");
                }
            }
            let path = Path::new().set("d", data).set("fill", colour);
            group = group.add(path.add(Title::new(name)));
        }
        group
    }

    /// A cross where a customer was lost.
    fn losses(&self, visits: &[&Visit]) -> Path {
        let arm = (self.lane * 0.3).clamp(2.0, 5.0);
        let mut data = String::new();
        for (lane, visit) in visits.iter().enumerate() {
            if let Some(at) = visit.lost {
                let (x, y) = (self.x(at), TOP + self.lane * (lane as f64 + 0.5));
                for side in [-arm, arm] {
                    // Writing to a string cannot fail.
                    let _ = write!(data, "M{:.1} {:.2}l{:.1} {:.1}", x - side, y - arm, 2.0 * side, 2.0 * arm);
                }
            }
        }
        Path::new().set("d", data).set("stroke", INK).set("stroke-width", 2).add(Title::new("lost"))
    }

    fn names(&self, run: &Run, visits: &[&Visit]) -> Group {
        let mut group = Group::new();
        if self.is_named() {
            for (lane, visit) in visits.iter().enumerate() {
                let y = TOP + self.lane * (lane as f64 + 0.5) + 4.0;
                let name = &*run.customers[visit.customer].name;
                let short = advance::shortened(name, WIDEST_NAME);
                let label = text(short.as_str(), self.left - 10.0, y, NAME_SIZE, INK).set("text-anchor", "end");
                let is_whole = short == name;
                group = group.add(if is_whole { label } else { label.add(Title::new(name)) });
            }
            return group;
        }
        // Without space for names, print the number of customers of each type.
        for kind in Kind::ALL {
            let of_kind = |visit: &&Visit| run.customers[visit.customer].kind == kind;
            let Some(first) = visits.iter().position(of_kind) else { continue };
            let count = run.customers.iter().filter(|customer| customer.kind == kind).count();
            let purpose = match kind {
                Kind::WithdrawMoney => "withdraw",
                Kind::CheckBalance => "check",
            };
            let y = TOP + self.lane * first as f64;
            for (row, label) in [count.to_string(), purpose.to_owned()].into_iter().enumerate() {
                let y = y + 11.0 + 14.0 * row as f64;
                group = group.add(text(label, self.left - 10.0, y, 11.0, FAINT).set("text-anchor", "end"));
            }
        }
        group
    }

    fn openings(&self, run: &Run) -> Group {
        let mut group = Group::new();
        for &(gate, at) in &run.opened {
            let x = self.x(at);
            // A label near the right edge would be cut off.
            let (anchor, label_x) = if x > WIDTH - 220.0 { ("end", x - 4.0) } else { ("start", x + 4.0) };
            let label = format!("{} set, {}", gate.event_name(), seconds(at.as_secs_f64()));
            // Each label has a row of its own, because the lines may be close to each other.
            let y = TOP - 6.0 - if gate == Gate::Bank { 12.0 } else { 0.0 };
            group = group
                .add(vertical(x, y - 8.0, self.bottom).set("stroke", "#b4232c").set("stroke-width", 1.5))
                .add(text(label, label_x, y, 11.0, "#b4232c").set("text-anchor", anchor));
        }
        group
    }
}

fn text(content: impl Into<String>, x: f64, y: f64, size: f64, colour: &str) -> Text {
    Text::new(content).set("x", round(x)).set("y", round(y)).set("font-size", size).set("fill", colour)
}

fn vertical(x: f64, from: f64, to: f64) -> Line {
    let x = round(x);
    Line::new().set("x1", x).set("x2", x).set("y1", round(from)).set("y2", round(to))
}

fn round(pixels: f64) -> f64 {
    (pixels * 10.0).round() / 10.0
}

/// The smallest step of at least `least` that is 1, 2 or 5 times a power of ten.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let step = [1.0, 2.0, 5.0].into_iter().find(|step| step * power >= least).unwrap_or(10.0);
    step * power
}

fn seconds(seconds: f64) -> String {
    let (number, unit) = match seconds {
        0.0 => return "0".to_owned(),
        s if s < 1e-3 => (s * 1e6, "µs"),
        s if s < 1.0 => (s * 1e3, "ms"),
        s => (s, "s"),
    };
    let rounded = (number * 100.0).round() / 100.0;
    format!("{rounded} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Audience, Customer, Pace, Plan, Reach, crowd};

    fn drawn(count: usize) -> String {
        let plan = Plan { customers: crowd(count), workers: 2, pace: Pace::new(0.0).unwrap() };
        let audience = Audience { keeps_notes: true, ..Audience::nobody() };
        let run = crate::run(Reach::Tasks, plan, audience).unwrap();
        let mut picture = Vec::new();
        write(&run, &mut picture).unwrap();
        String::from_utf8(picture).unwrap()
    }

    #[test]
    fn four_customers_are_named_and_both_events_are_marked() {
        let picture = drawn(4);
        for expected in ["Customer 1", "Customer 4", "bank_open set", "transactions_open set", "being served"] {
            assert!(picture.contains(expected), "{expected} is missing in {picture}");
        }
    }

    #[test]
    fn names_fit_their_column_whatever_their_letters() {
        let names = ["W".repeat(40), "i".repeat(40), "山田".repeat(12), "Ann".to_owned()];
        let customer = |name: &String| Customer { name: name.as_str().into(), kind: Kind::CheckBalance };
        let plan = Plan { customers: names.iter().map(customer).collect(), workers: 2, pace: Pace::new(0.0).unwrap() };
        let audience = Audience { keeps_notes: true, ..Audience::nobody() };
        let run = crate::run(Reach::Threads, plan, audience).unwrap();
        let left = Picture::new(&run, names.len()).left;
        assert!(left < WIDTH / 4.0);
        let mut picture = Vec::new();
        write(&run, &mut picture).unwrap();
        let picture = String::from_utf8(picture).unwrap();
        // The names are the labels that end before the lanes begin.
        let end = format!("x=\"{}\"", round(left - 10.0));
        let labels: Vec<&str> = picture.split("<text").filter(|label| label.contains(&end)).collect();
        assert_eq!(labels.len(), names.len());
        for label in labels {
            let label = label.split_once('>').unwrap().1.trim_start().split(['<', '\n']).next().unwrap();
            assert!(left - 10.0 - NAME_SIZE * advance::width(label) >= 0.0, "{label} begins outside of the picture");
        }
        // The whole name is shown for a name that is cut; narrow letters need no cut.
        assert!(picture.contains(&names[0]) && picture.contains(&names[1]) && picture.contains(&names[2]));
        assert_eq!(picture.matches('…').count(), 2);
    }

    #[test]
    fn a_crowd_gets_a_small_picture() {
        assert!(drawn(10_000).len() < 2_000_000);
        let larger = drawn(30_000);
        assert!(larger.contains("10000 of them are drawn"));
        assert!(larger.len() < 2_000_000);
    }

    #[test]
    fn steps_are_those_that_people_count_in() {
        for (least, step) in [(0.9, 1.0), (1.0, 1.0), (1.1, 2.0), (3.0, 5.0), (7.0, 10.0), (0.011, 0.02)] {
            assert!((nice_step(least) - step).abs() < 1e-9, "{least}");
        }
    }
}

//! The plot: for each workload a bar per contender, with the ratio to the baseline on a logarithmic scale.

use svg::Document;
use svg::node::element::{Group, Line, Rectangle, Text};

use crate::names::{BASELINES, OURS};
use crate::record::Record;
use crate::report::{baseline_of, ratio as shown};

/// The figures that are drawn, as (workload, figure, title).
const PANELS: [(&str, &str, &str); 16] = [
    ("uncontended", "set+clear", "set + clear, nobody waits"),
    ("uncontended", "wait when set", "wait on a set event"),
    ("round-trip-2-cores", "round trip", "round trip of two threads, two cores"),
    ("round-trip-1-core", "round trip", "round trip of two threads, one core"),
    ("crowd-256-2-cores", "all out, per thread", "256 sleeping threads, until the last is out, two cores"),
    ("crowd-1000-1-core", "all out, per thread", "1,000 sleeping threads, until the last is out, one core"),
    ("tasks-100000", "register+set+finish", "100,000 tasks: register, set, finish"),
    ("tasks-100000", "register, drop", "100,000 tasks: register, drop before the set"),
    ("tasks-owned-100000", "register, drop", "100,000 tasks that own the event: register, drop before the set"),
    ("processes-uncontended", "set+clear", "between processes: set + clear, nobody waits"),
    ("processes-round-trip-1-core", "round trip", "round trip of two processes, one core"),
    ("processes-round-trip-2-cores", "round trip", "round trip of two processes, two cores"),
    (
        "processes-crowd-1000-2-cores",
        "all out, per process",
        "1,000 sleeping processes, until the last is out, two cores",
    ),
    ("machines-verbs-3-nodes", "set, µs", "between machines: set, three nodes"),
    ("machines-verbs-3-nodes", "set to out, µs", "from a set until a waiter elsewhere is out, three nodes"),
    ("machines-crowd-10000", "set to last out, ms", "10,000 tasks of one process, until the last is out"),
];

const WIDTH: f64 = 860.0;
const LEFT: f64 = 210.0;
const RIGHT: f64 = 70.0;
const ROW: f64 = 18.0;

pub fn draw(record: &Record) -> String {
    let origin = &record.origin;
    let mut document = Document::new();
    let mut y = 34.0;
    let mut body = Group::new()
        .add(text(
            "Time as a ratio to the baseline (1 = the bare mechanism; shorter is better)",
            16.0,
            y,
            15.0,
            "#1f2430",
        ))
        .add(text(
            format!("{}, commit {}, {}", origin.date, origin.commit, origin.machine),
            16.0,
            y + 18.0,
            10.0,
            "#6b7280",
        ));
    y += 46.0;
    for (workload, name, title) in PANELS {
        let Some(baseline) = baseline_of(record, workload, name) else { continue };
        let (panel, height) = panel(record, workload, name, baseline);
        body = body
            .add(text(title, 16.0, y, 12.0, "#1f2430").set("font-weight", 600))
            .add(panel.set("transform", format!("translate(0 {})", y + 8.0)));
        y += height + 34.0;
    }
    document = document
        .set("viewBox", (0.0, 0.0, WIDTH, y))
        .set("width", WIDTH)
        .set("height", y)
        .set("font-family", "system-ui, sans-serif")
        .add(Rectangle::new().set("width", "100%").set("height", "100%").set("fill", "white"))
        .add(body);
    document.to_string() + "\n"
}

fn panel(record: &Record, workload: &str, name: &str, baseline: f64) -> (Group, f64) {
    let contenders = record.contenders(workload);
    let ratio = |contender: &str| record.median(workload, contender, name).0.map(|value| value / baseline);
    let ratios: Vec<f64> = contenders.iter().filter_map(|contender| ratio(contender)).collect();
    // A little beyond the extremes, so that every bar has a length.
    let low = ratios.iter().copied().fold(1.0, f64::min) / 1.5;
    let high = ratios.iter().copied().fold(1.0, f64::max) * 1.2;
    let x = |ratio: f64| LEFT + (WIDTH - LEFT - RIGHT) * (ratio / low).ln() / (high / low).ln();
    let height = ROW * contenders.len() as f64;
    let one = x(1.0);
    let mut group = Group::new()
        .add(Line::new().set("x1", one).set("x2", one).set("y1", 0).set("y2", height).set("stroke", "#9ca3af"));
    for (row, contender) in contenders.iter().enumerate() {
        let y = ROW * row as f64;
        let colour = match *contender {
            OURS => "#2f7d6b",
            baseline if BASELINES.contains(&baseline) => "#9ca3af",
            _ => "#b8c4d6",
        };
        let label = text(*contender, LEFT - 8.0, y + 13.0, 11.0, "#1f2430").set("text-anchor", "end");
        group = group.add(label);
        let hangs = record.median(workload, contender, name).1 > 0;
        let Some(ratio) = ratio(contender) else {
            group = group.add(text("hangs", LEFT + 4.0, y + 13.0, 11.0, "#b4232c"));
            continue;
        };
        let end = x(ratio);
        let said = if hangs { format!("{}, hangs", shown(ratio)) } else { shown(ratio) };
        let ink = if hangs { "#b4232c" } else { "#1f2430" };
        group = group
            .add(
                Rectangle::new()
                    .set("x", LEFT)
                    .set("y", y + 3.0)
                    .set("width", end - LEFT)
                    .set("height", ROW - 6.0)
                    .set("fill", colour),
            )
            .add(text(said, end + 5.0, y + 13.0, 11.0, ink));
    }
    (group, height)
}

fn text(content: impl Into<String>, x: f64, y: f64, size: f64, colour: &str) -> Text {
    Text::new(content).set("x", x).set("y", y).set("font-size", size).set("fill", colour)
}

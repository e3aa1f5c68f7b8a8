//! What stands where in etcd, and how it is read back. What others have written there is hostile until it is parsed.
//!
//! Under `/NAMESPACE/`:
//!
//! | key | value |
//! |---|---|
//! | `e/NAME/l` | the level: `1` set, `0` not set |
//! | `e/NAME/p` | the pulse, put by every set: when, by whom, and a number that no other set has |
//! | `e/NAME/h/LEASE` | a hold: who; ends with its lease |
//! | `w/NAME/LEASE` | who waits: since when, how many, who; ends with its lease |
//! | `o/SLOT` | the number of the last write that was made in the slot (`write.rs`) |

use std::time::{Duration, SystemTime};

use crate::error::Error;
use crate::wire::{KeyValue, Range, RangeAnswer};

/// How much is believed of what others say of themselves.
const LONGEST: usize = 200;

/// Checks a name by the rules that hold between processes too.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    tantara::__private::check_name(name).map_err(|why| Error::input("the name of an event", name, why))
}

/// A namespace is made as the names of events are.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), Error> {
    tantara::__private::check_name(namespace).map_err(|why| Error::input("a namespace", namespace, why))
}

/// The keys of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// The first key after all that begin with the same bytes. Prefixes end in a slash here, so there is one.
pub(crate) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

impl Keys {
    pub(crate) fn new(namespace: &str) -> Keys {
        Keys { prefix: format!("/{namespace}/") }
    }

    /// All that belongs to events.
    pub(crate) fn events(&self) -> Vec<u8> {
        format!("{}e/", self.prefix).into_bytes()
    }

    /// All that belongs to one event.
    pub(crate) fn event(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/", self.prefix).into_bytes()
    }

    pub(crate) fn level(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/l", self.prefix).into_bytes()
    }

    pub(crate) fn pulse(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/p", self.prefix).into_bytes()
    }

    /// The end of the range that is watched: from the level to the pulse. Foreign keys may lie between the two.
    pub(crate) fn after_pulse(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/q", self.prefix).into_bytes()
    }

    pub(crate) fn holds(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/h/", self.prefix).into_bytes()
    }

    pub(crate) fn hold(&self, name: &str, lease: i64) -> Vec<u8> {
        format!("{}e/{name}/h/{lease:016x}", self.prefix).into_bytes()
    }

    pub(crate) fn all_waiters(&self) -> Vec<u8> {
        format!("{}w/", self.prefix).into_bytes()
    }

    pub(crate) fn waiters(&self, name: &str) -> Vec<u8> {
        format!("{}w/{name}/", self.prefix).into_bytes()
    }

    pub(crate) fn waiter(&self, name: &str, lease: i64) -> Vec<u8> {
        format!("{}w/{name}/{lease:016x}", self.prefix).into_bytes()
    }

    pub(crate) fn slot(&self, number: u32) -> Vec<u8> {
        format!("{}o/{number}", self.prefix).into_bytes()
    }

    /// What a key under [`events`](Keys::events) or [`all_waiters`](Keys::all_waiters) is about. `None` for what does
    /// not belong there.
    pub(crate) fn parse<'k>(&self, key: &'k [u8]) -> Option<(&'k str, Part)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let mut parts = path.split('/');
        let (kind, name) = (parts.next()?, parts.next()?);
        check_name(name).ok()?;
        let part = match (kind, parts.next()?, parts.next()) {
            ("e", "l", None) => Part::Level,
            ("e", "p", None) => Part::Pulse,
            ("e", "h", Some(lease)) if lease_of(lease).is_some() => Part::Hold,
            ("w", _, None) => Part::Waiter,
            _ => return None,
        };
        parts.next().is_none().then_some((name, part))
    }

    /// Whether somebody of ours has written what was read under [`events`](Keys::events) or
    /// [`all_waiters`](Keys::all_waiters).
    pub(crate) fn is_ours(&self, kv: &KeyValue) -> bool {
        self.parse(&kv.key).is_some_and(|(_, part)| part != Part::Hold || is_hold(kv))
    }

    /// The three reads that show the state of an event: two exact keys, and the first key among the holds. One hold
    /// is enough, so many holds cost no more than one.
    pub(crate) fn look(&self, name: &str) -> [Range; 3] {
        let exact = |key| Range { key, ..Range::default() };
        [exact(self.level(name)), exact(self.pulse(name)), self.holds_after(name, None)]
    }

    /// A read of the next key that may be a hold: of the first one, or of the one after a key. Leases are positive, so
    /// their first digit is at most 7; most foreign keys lie outside of that range.
    pub(crate) fn holds_after(&self, name: &str, key: Option<&KeyValue>) -> Range {
        let bound = |digit: u8| [&self.holds(name)[..], &[digit]].concat();
        let key = key.map_or_else(|| bound(b'0'), |kv| [&kv.key[..], b"\0"].concat());
        Range { key, range_end: bound(b'8'), limit: 1, keys_only: true, ..Range::default() }
    }
}

/// The lease that a key's last segment names.
fn lease_of(segment: &str) -> Option<i64> {
    let is_ours = segment.len() == 16 && segment.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| i64::from_str_radix(segment, 16).ok()).flatten().filter(|lease| *lease > 0)
}

/// Whether a key is a hold: it hangs on the lease that it names, and so ends with its holder.
pub(crate) fn is_hold(kv: &KeyValue) -> bool {
    let segment = kv.key.rsplit(|byte| *byte == b'/').next().and_then(|segment| std::str::from_utf8(segment).ok());
    segment.and_then(lease_of).is_some_and(|lease| lease == kv.lease)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Level,
    Pulse,
    Hold,
    Waiter,
}

/// Which set was the last. Every set writes a value of its own, so this tells sets apart even where the history has
/// been replaced, and its revisions with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pulse {
    pub(crate) revision: i64,
    pub(crate) value: Vec<u8>,
}

impl Pulse {
    fn new(kv: &KeyValue) -> Pulse {
        // Our values differ long before this length. A foreign value may be of any length, and every wait keeps one.
        Pulse { revision: kv.mod_revision, value: kv.value.iter().copied().take(LONGEST).collect() }
    }
}

/// What an event was at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) level: Option<bool>,
    /// The revision at which the level key was created; 0 if there is none.
    pub(crate) made: i64,
    pub(crate) pulse: Option<Pulse>,
    pub(crate) is_held: bool,
}

impl State {
    /// From the answers to [`Keys::look`].
    pub(crate) fn new(level: &RangeAnswer, pulse: &RangeAnswer, hold: &RangeAnswer) -> State {
        let mut state = State::default();
        for (part, answer) in [(Part::Level, level), (Part::Pulse, pulse), (Part::Hold, hold)] {
            answer.kvs.iter().for_each(|kv| state.put(part, kv));
        }
        state
    }

    /// A key of the event has been read, or put.
    pub(crate) fn put(&mut self, part: Part, kv: &KeyValue) {
        match part {
            Part::Level => (self.level, self.made) = (Some(kv.value == b"1"), kv.create_revision),
            Part::Pulse => self.pulse = Some(Pulse::new(kv)),
            Part::Hold => self.is_held |= is_hold(kv),
            Part::Waiter => {}
        }
    }

    pub(crate) fn is_set(&self) -> bool {
        self.level == Some(true) || self.is_held
    }

    /// Whether anybody has ever set or cleared it, and nobody has removed it since.
    pub(crate) fn exists(&self) -> bool {
        self.level.is_some() || self.pulse.is_some() || self.is_held
    }
}

/// Who did something: for people to read, never to decide by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) at: SystemTime,
    pub(crate) pid: u32,
    pub(crate) host: String,
    /// How many wait.
    pub(crate) count: u32,
}

impl Who {
    /// This process, now.
    pub(crate) fn am_i() -> Who {
        Who { at: SystemTime::now(), pid: std::process::id(), host: host(), count: 1 }
    }

    /// `MILLISECONDS PID COUNT UNIQUE HOST`.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let unique = fastrand::u64(..);
        format!("{at} {} {} {unique:016x} {}", self.pid, self.count, self.host).into_bytes()
    }

    /// `None` for what somebody else has written.
    pub(crate) fn parse(value: &[u8]) -> Option<Who> {
        let mut words = std::str::from_utf8(value).ok()?.splitn(5, ' ');
        let at = Duration::from_millis(words.next()?.parse().ok()?);
        let (pid, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let _unique = words.next()?;
        let host = words.next()?.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        Some(Who { at: SystemTime::UNIX_EPOCH.checked_add(at)?, pid, host, count })
    }
}

/// What this machine is called.
fn host() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    #[cfg(not(unix))]
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_slash_leads_nowhere() {
        for name in ["a", "db-ready", "größe", "v1.2", "a@b=c,d+e%f~"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(201);
        for name in ["", "a/b", "/", "..", ".a", "-a", "a b", "a\nb", "a\0", &long] {
            assert!(check_name(name).unwrap_err().is_invalid_input(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_read_back_and_others_passed_over() {
        let keys = Keys::new("shop");
        assert_eq!(keys.parse(&keys.level("a")), Some(("a", Part::Level)));
        assert_eq!(keys.parse(&keys.pulse("a")), Some(("a", Part::Pulse)));
        assert_eq!(keys.parse(&keys.hold("a", 7)), Some(("a", Part::Hold)));
        assert_eq!(keys.parse(&keys.waiter("a", 7)), Some(("a", Part::Waiter)));
        for foreign in
            ["/shop/e/a", "/shop/e//l", "/shop/e/a/l/x", "/shop/e/a b/l", "/shop/x/a/l", "/shopping/e/a/l", ""]
                .into_iter()
                .chain(["/shop/e/a/l1", "/shop/e/a/m", "/shop/e/a/h/7", "/shop/e/a/h/000000000000000G"])
        {
            assert_eq!(keys.parse(foreign.as_bytes()), None, "{foreign}");
        }
        assert_eq!(keys.parse(b"/shop/e/\xff/l"), None);
    }

    #[test]
    fn level_and_pulse_stand_in_their_range_and_holds_do_not() {
        let keys = Keys::new("n");
        let (from, to) = (keys.level("a"), keys.after_pulse("a"));
        let within = |key: Vec<u8>| key >= from && key < to;
        assert!(within(keys.level("a")) && within(keys.pulse("a")));
        assert!(!within(keys.hold("a", 1)) && !within(keys.pulse("a-b")) && !within(keys.level("b")));
        assert_eq!(end_of(b"/n/e/"), b"/n/e0");
        let holds = keys.holds_after("a", None);
        for lease in [1, 0x1f, i64::MAX] {
            assert!((&holds.key..&holds.range_end).contains(&&keys.hold("a", lease)));
        }
    }

    #[test]
    fn who_is_read_back_and_what_others_wrote_is_not_believed() {
        let who = Who { at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_234), pid: 7, host: "h".into(), count: 3 };
        assert_eq!(Who::parse(&who.to_value()), Some(who.clone()));
        assert_ne!(who.to_value(), who.to_value(), "no two sets have the same value");
        for hostile in [&b""[..], b"x", b"1 2 3", b"-1 2 3 4 h", b"99999999999999999999999 1 1 0 h", b"\xff 1 1 0 h"] {
            assert_eq!(Who::parse(hostile), None, "{hostile:?}");
        }
        assert_eq!(Who::parse(b"1 2 3 4 a\x1b[2Jb").unwrap().host, "a[2Jb");
    }

    #[test]
    fn an_event_is_set_by_its_level_or_by_a_hold() {
        let kv = |key: &str, value: &str| KeyValue { key: key.into(), value: value.into(), ..KeyValue::default() };
        let range = |kvs| RangeAnswer { kvs, ..RangeAnswer::default() };
        let state = |level, pulse, hold| State::new(&range(level), &range(pulse), &range(hold));
        assert!(!state(vec![], vec![], vec![]).exists());
        assert!(!state(vec![kv("x/l", "0")], vec![], vec![]).is_set());
        assert!(state(vec![kv("x/l", "0")], vec![], vec![]).exists());
        assert!(state(vec![kv("x/l", "1")], vec![], vec![]).is_set());
        let hold = |lease| KeyValue { lease, ..kv("x/h/000000000000001f", "") };
        assert!(state(vec![kv("x/l", "0")], vec![], vec![hold(0x1f)]).is_set());
        for foreign in [hold(0), hold(7), KeyValue { lease: 7, ..kv("x/h/7", "") }] {
            assert!(!state(vec![], vec![], vec![foreign]).exists(), "a hold hangs on the lease that it names");
        }
        assert!(!state(vec![kv("x/l", "hello")], vec![], vec![]).is_set(), "what somebody else wrote sets nothing");
        assert!(state(vec![], vec![kv("x/p", "")], vec![]).pulse.is_some());
        let long = state(vec![], vec![kv("x/p", &"x".repeat(1_000_000))], vec![]);
        assert!(long.pulse.unwrap().value.len() <= LONGEST, "a foreign value is not kept whole");
    }
}

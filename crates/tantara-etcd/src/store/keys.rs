//! The keys and values of events. What is read is hostile until it is parsed.
//!
//! Under `/NAMESPACE/`:
//!
//! | key | value |
//! |---|---|
//! | `e/NAME/l` | the level: `1` set, `0` not set |
//! | `e/NAME/p` | the pulse, put by every `set`: when, by which process, why, and a unique number |
//! | `e/NAME/h/LEASE` | a hold: by which process; attached to its lease |
//! | `w/NAME/LEASE` | the waiters in a process: since when, how many; attached to its lease |
//! | `o/SLOT` | the number of the last write in a session slot (`write.rs`) |

use std::time::{Duration, SystemTime};

use crate::client::proto::{KeyValue, Range};
use crate::error::Error;
use crate::random;

/// Upper bound on the length of a host name or value that is kept.
pub(crate) const LONGEST: usize = 200;

/// Checks a name by the rules for names of events between processes.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    tantara::__private::check_name(name).map_err(|why| Error::input("the name of an event", name, why))
}

/// Checks a note by the rules for notes of events between processes.
pub(crate) fn check_note(note: &str) -> Result<(), Error> {
    tantara::__private::check_note(note).map_err(|why| Error::input("a note", note, why))
}

/// A namespace follows the rules for names of events.
pub(crate) fn check_namespace(namespace: &str) -> Result<(), Error> {
    tantara::__private::check_name(namespace).map_err(|why| Error::input("a namespace", namespace, why))
}

/// Builds and parses the keys of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    prefix: String,
}

/// The end of the range of all keys with a prefix. Prefixes end in a slash here, so there is one.
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

    /// The prefix of all events.
    pub(crate) fn events(&self) -> Vec<u8> {
        format!("{}e/", self.prefix).into_bytes()
    }

    /// The prefix of one event.
    pub(crate) fn event(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/", self.prefix).into_bytes()
    }

    pub(crate) fn level(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/l", self.prefix).into_bytes()
    }

    pub(crate) fn pulse(&self, name: &str) -> Vec<u8> {
        format!("{}e/{name}/p", self.prefix).into_bytes()
    }

    /// The end of the range that is watched, which begins with the level. External keys may lie in
    /// between.
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

    /// Parses a key under [`events`](Keys::events) or [`all_waiters`](Keys::all_waiters). `None`
    /// for an external key.
    pub(crate) fn parse<'k>(&self, key: &'k [u8]) -> Option<(&'k str, Part)> {
        let path = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?;
        let mut store = path.split('/');
        let (kind, name) = (store.next()?, store.next()?);
        check_name(name).ok()?;
        let part = match (kind, store.next()?, store.next()) {
            ("e", "l", None) => Part::Level,
            ("e", "p", None) => Part::Pulse,
            ("e", "h", Some(lease)) if lease_of(lease).is_some() => Part::Hold,
            ("w", _, None) => Part::Waiter,
            _ => return None,
        };
        store.next().is_none().then_some((name, part))
    }

    /// Whether this crate writes such a key under [`events`](Keys::events) or
    /// [`all_waiters`](Keys::all_waiters).
    pub(crate) fn is_known(&self, kv: &KeyValue) -> bool {
        self.parse(&kv.key).is_some_and(|(_, part)| part != Part::Hold || lease_of_hold(kv).is_some())
    }

    /// The three reads that show the state of an event: two exact keys, and the first key among the
    /// holds. One hold is enough to know that the event is held.
    pub(crate) fn look(&self, name: &str) -> [Range; 3] {
        let exact = |key| Range { key, ..Range::default() };
        [exact(self.level(name)), exact(self.pulse(name)), self.holds_after(name, None)]
    }

    /// A read of the first key that may be a hold, or of the first one after `key`. Leases are
    /// positive, so their first digit is at most 7; most external keys lie outside of that range.
    pub(crate) fn holds_after(&self, name: &str, key: Option<&KeyValue>) -> Range {
        let bound = |digit: u8| [&self.holds(name)[..], &[digit]].concat();
        let key = key.map_or_else(|| bound(b'0'), |kv| [&kv.key[..], b"\0"].concat());
        Range { key, range_end: bound(b'8'), limit: 1, keys_only: true, ..Range::default() }
    }
}

/// Parses the last segment of a hold's key.
fn lease_of(segment: &str) -> Option<i64> {
    let is_hexadecimal = segment.len() == 16 && segment.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    is_hexadecimal.then(|| i64::from_str_radix(segment, 16).ok()).flatten().filter(|lease| *lease > 0)
}

/// The lease that a key names in its last segment.
pub(crate) fn lease_of_key(key: &[u8]) -> Option<i64> {
    let segment = key.rsplit(|byte| *byte == b'/').next()?;
    lease_of(std::str::from_utf8(segment).ok()?)
}

/// The lease of a hold. `None` for a key that is not attached to the lease that it names, and so
/// would not end with its holder.
pub(crate) fn lease_of_hold(kv: &KeyValue) -> Option<i64> {
    lease_of_key(&kv.key).filter(|lease| *lease == kv.lease)
}

/// What a key of an event is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Level,
    Pulse,
    Hold,
    Waiter,
}

/// Which process wrote a value, when, and why. For people to read; no decision depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) at: SystemTime,
    pub(crate) pid: u32,
    pub(crate) host: String,
    /// The number of waiters.
    pub(crate) count: u32,
    /// The note of a `set`.
    pub(crate) note: Option<String>,
}

impl Stamp {
    /// This process, now.
    pub(crate) fn now() -> Stamp {
        Stamp { at: SystemTime::now(), pid: std::process::id(), host: host(), count: 1, note: None }
    }

    /// With this note, or with none if it is empty.
    pub(crate) fn with_note(self, note: &str) -> Result<Stamp, Error> {
        check_note(note)?;
        Ok(Stamp { note: Some(note.to_owned()).filter(|note| !note.is_empty()), ..self })
    }

    /// `MILLISECONDS PID COUNT UNIQUE HOST`, and in a second line the note, if there is one.
    pub(crate) fn to_value(&self) -> Vec<u8> {
        let at = self.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let unique = random::number();
        let note = self.note.as_ref().map(|note| format!("\n{note}")).unwrap_or_default();
        format!("{at} {} {} {unique:016x} {}{note}", self.pid, self.count, self.host).into_bytes()
    }

    /// `None` for an external value.
    pub(crate) fn parse(value: &[u8]) -> Option<Stamp> {
        let text = std::str::from_utf8(value).ok()?;
        let (line, note) = text.split_once('\n').map_or((text, None), |(line, note)| (line, Some(note)));
        let note = note.filter(|note| !note.is_empty() && check_note(note).is_ok()).map(str::to_owned);
        let mut words = line.splitn(5, ' ');
        let at = Duration::from_millis(words.next()?.parse().ok()?);
        let (pid, count) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        let _unique = words.next()?;
        let host = words.next()?.chars().filter(|c| !c.is_control()).take(LONGEST).collect();
        Some(Stamp { at: SystemTime::UNIX_EPOCH.checked_add(at)?, pid, host, count, note })
    }
}

/// The name of this machine.
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
    fn a_name_with_a_slash_is_refused() {
        for name in ["a", "db-ready", "größe", "v1.2", "a@b=c,d+e%f~"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let long = "x".repeat(201);
        for name in ["", "a/b", "/", "..", ".a", "-a", "a b", "a\nb", "a\0", &long] {
            assert!(check_name(name).unwrap_err().is_invalid_input(), "{name:?}");
        }
    }

    #[test]
    fn keys_are_parsed_and_external_ones_ignored() {
        let keys = Keys::new("shop");
        assert_eq!(keys.parse(&keys.level("a")), Some(("a", Part::Level)));
        assert_eq!(keys.parse(&keys.pulse("a")), Some(("a", Part::Pulse)));
        assert_eq!(keys.parse(&keys.hold("a", 7)), Some(("a", Part::Hold)));
        assert_eq!(keys.parse(&keys.waiter("a", 7)), Some(("a", Part::Waiter)));
        for external in
            ["/shop/e/a", "/shop/e//l", "/shop/e/a/l/x", "/shop/e/a b/l", "/shop/x/a/l", "/shopping/e/a/l", ""]
                .into_iter()
                .chain(["/shop/e/a/l1", "/shop/e/a/m", "/shop/e/a/h/7", "/shop/e/a/h/000000000000000G"])
        {
            assert_eq!(keys.parse(external.as_bytes()), None, "{external}");
        }
        assert_eq!(keys.parse(b"/shop/e/\xff/l"), None);
    }

    #[test]
    fn the_watched_range_has_level_and_pulse_and_no_holds() {
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
    fn a_stamp_is_parsed_and_hostile_ones_refused() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_234);
        let stamp = Stamp { at, pid: 7, host: "h".into(), count: 3, note: None };
        assert_eq!(Stamp::parse(&stamp.to_value()), Some(stamp.clone()));
        let noted = stamp.clone().with_note("disk full: größe").unwrap();
        assert_eq!(Stamp::parse(&noted.to_value()), Some(noted));
        assert_eq!(stamp.clone().with_note("").unwrap(), stamp);
        assert!(stamp.clone().with_note("a\nb").unwrap_err().is_invalid_input());
        let why = |value: &[u8]| Stamp::parse(value).unwrap().note;
        assert_eq!(why(b"1 2 1 0 h\nwhy"), Some("why".into()));
        let long = [&b"1 2 1 0 h\n"[..], &[b'x'; 65]].concat();
        for hostile in [&b"1 2 1 0 h"[..], b"1 2 1 0 h\n", b"1 2 1 0 h\na\nb", b"1 2 1 0 h\n\x1b[2J", &long] {
            assert_eq!(why(hostile), None, "{hostile:?}");
        }
        assert_ne!(stamp.to_value(), stamp.to_value(), "no two sets have the same value");
        for hostile in [&b""[..], b"x", b"1 2 3", b"-1 2 3 4 h", b"99999999999999999999999 1 1 0 h", b"\xff 1 1 0 h"] {
            assert_eq!(Stamp::parse(hostile), None, "{hostile:?}");
        }
        assert_eq!(Stamp::parse(b"1 2 3 4 a\x1b[2Jb").unwrap().host, "a[2Jb");
    }
}

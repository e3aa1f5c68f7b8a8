//! The fuzz targets (`fuzz/` in the repository), and the invariants that they check. Compiled under
//! `cargo fuzz`, and in tests, which run the seeds.

use crate::client::endpoint::{self, Endpoint};
use crate::client::proto::KeyValue;
use crate::store::keys::{Keys, Part, Stamp, lease_of_hold};
use crate::store::state::State;

/// An external key and its value. The input is a byte for the length of the key, the key after
/// `/n/`, the value, and the lease in the last eight bytes.
pub fn keys(input: &[u8]) {
    let Some((&length, rest)) = input.split_first() else { return };
    let (key, rest) = rest.split_at(rest.len().min(length.into()));
    let (value, lease) = rest.split_at(rest.len().saturating_sub(8));
    let lease = lease.iter().fold(0, |lease, byte| lease << 8 | i64::from(*byte));
    let key = [b"/n/", key].concat();
    let kv = KeyValue { key, value: value.to_vec(), lease, ..KeyValue::default() };

    let keys = Keys::new("n");
    let mut state = State::default();
    if let Some((name, part)) = keys.parse(&kv.key) {
        let own = match part {
            Part::Level => keys.level(name),
            Part::Pulse => keys.pulse(name),
            Part::Hold => keys.holds(name),
            Part::Waiter => keys.waiters(name),
        };
        assert!(kv.key.starts_with(&own), "{:?} was read as {part:?} of {name:?}", kv.key);
        state.put(part, &kv);
        assert!(!state.is_set() || kv.value == b"1" || lease_of_hold(&kv).is_some());
    }
    if let Some(stamp) = Stamp::parse(&kv.value) {
        assert!(!stamp.host.contains(char::is_control) && stamp.host.chars().count() <= kv.value.len());
        let again = Stamp::parse(&stamp.to_value()).expect("what was read can be written and read");
        assert_eq!((again.pid, again.count, again.host), (stamp.pid, stamp.count, stamp.host));
        assert_eq!(again.note, stamp.note);
        assert!(stamp.note.is_none_or(|note| tantara::__private::check_note(&note).is_ok()));
    }
}

/// Endpoints, as users write them.
pub fn endpoints(input: &str) {
    for wants_tls in [false, true] {
        match endpoint::parse(input, wants_tls) {
            Ok(endpoints) => {
                assert!(!endpoints.is_empty());
                for endpoint in &endpoints {
                    let uri = endpoint.uri();
                    assert!(uri.starts_with("https://") || !wants_tls, "{uri}");
                    assert!(!uri.contains(|c: char| c.is_control() || c.is_whitespace() || c == '@'), "{uri:?}");
                    assert_eq!(endpoint::parse(&*uri, wants_tls).ok(), Some(vec![endpoint.clone()]), "{uri}");
                    uri.parse::<tonic::transport::Endpoint>().unwrap_or_else(|error| panic!("{uri}: {error}"));
                    if let Some(learnt) = Endpoint::learnt(input, endpoint) {
                        assert_eq!(learnt.is_secure, endpoint.is_secure);
                    }
                }
            }
            Err(error) => {
                let text = error.to_string();
                assert!(text.len() < 500 && !text.contains(char::is_control), "{text:?}");
                if let Some((secret, rest)) = input.rsplit_once('@')
                    && secret.len() > 12
                    // What is shown begins with the sign.
                    && !format!("@{rest}").contains(secret)
                {
                    assert!(!text.contains(secret), "{text:?}");
                }
            }
        }
    }
}

// Some seeds are endpoints with TLS.
#[cfg(all(test, not(fuzzing), feature = "tls"))]
mod tests {
    use std::fs;
    use std::path::Path;

    fn seeds(target: &str) -> Vec<Vec<u8>> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
        // A published package has come without them.
        let files = fs::read_dir(folder).into_iter().flatten();
        files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
    }

    #[test]
    fn the_seeds_of_the_fuzz_targets_keep_the_invariants() {
        seeds("keys").iter().for_each(|seed| super::keys(seed));
        seeds("endpoints").iter().for_each(|seed| super::endpoints(std::str::from_utf8(seed).unwrap()));
    }
}

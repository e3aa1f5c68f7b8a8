//! The file of an event, with any content: it is rejected, or every method works on it.
//!
//! An input that begins with an odd byte is the content itself. Any other is a list of patches to the page of a new
//! event, each an offset of two bytes, a length and the bytes. Otherwise few inputs would pass the check of the seal.
#![no_main]

use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use tantara::{SharedEvent, Waitable, all, any};
use tempfile::TempDir;

const NAME: &str = "event";

/// A directory for the event, and the page of a new one.
fn start() -> &'static (TempDir, Vec<u8>) {
    static START: OnceLock<(TempDir, Vec<u8>)> = OnceLock::new();
    START.get_or_init(|| {
        let directory = tempfile::tempdir().unwrap();
        let event = SharedEvent::open_in(directory.path(), NAME).unwrap();
        let page = fs::read(event.path().unwrap()).unwrap();
        event.remove().unwrap();
        (directory, page)
    })
}

fn contents(input: &[u8], new: &[u8]) -> Vec<u8> {
    let Some((kind, mut rest)) = input.split_first() else { return Vec::new() };
    if kind % 2 == 1 {
        return rest.to_vec();
    }
    let mut page = new.to_vec();
    while let Some((&[high, low, length], after)) = rest.split_first_chunk() {
        let (patch, after) = after.split_at(after.len().min(length.into()));
        let from = usize::from(high) << 8 | usize::from(low);
        let from = from % page.len();
        for (byte, new) in page[from..].iter_mut().zip(patch) {
            *byte = *new;
        }
        rest = after;
    }
    page
}

fn use_it(event: &SharedEvent) {
    let _ = format!("{event:?}");
    let _ = (event.is_set(), event.is_removed(), event.state(), event.last_set(), event.waiters());
    let _ = (event.wait_timeout(Duration::ZERO), event.clear(), event.pulse());
    let _ = any([event as &dyn Waitable]).try_wait_timeout(Duration::ZERO);
    if event.set().is_ok() {
        // Whatever the page contained before, the event is set now, and stays so.
        assert!(event.is_set().unwrap() && event.wait_timeout(Duration::ZERO).unwrap());
        event.wait().unwrap();
        all([event]).try_wait().unwrap();
        event.set_with_note("why").unwrap();
        assert_eq!(event.last_set().unwrap().unwrap().note.as_deref(), Some("why"));
        event.clear().unwrap();
        assert!(!event.wait_timeout(Duration::ZERO).unwrap());
    }
    let _ = event.last_set();
}

fuzz_target!(|input: &[u8]| {
    let (directory, new) = start();
    let directory = directory.path();
    let path: PathBuf = directory.join(NAME);
    fs::write(&path, contents(input, new)).unwrap();
    let _ = SharedEvent::list_in(directory).unwrap();
    let found = SharedEvent::find_in(directory, NAME);
    match SharedEvent::open_in(directory, NAME) {
        Ok(event) => {
            use_it(&event);
            if let Ok(Some(found)) = &found {
                use_it(found);
            }
            let _ = event.remove();
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let _ = fs::remove_file(&path);
});

//! A hostile server sends keys and changes without end; this module makes them up.

use std::sync::Arc;

use bytes::Bytes;
use h2::SendStream;
use tokio::sync::Mutex as AsyncMutex;

use crate::messages::{bytes, content, framed, number, send, varint};

/// Changes that a watch shows without end.
pub(crate) struct Flood {
    key: String,
    revision: u64,
    watch: u64,
}

impl Flood {
    /// For a request that creates a watch.
    pub(crate) fn of(message: &[u8]) -> Option<Flood> {
        // create_request = 1, and in it key = 1, start_revision = 3, watch_id = 7
        let create = content(message.get(5..)?, 1)?;
        let key = String::from_utf8(content(create, 1)?.to_vec()).ok()?;
        // A wait until an event is unset watches from the holds on.
        let key = key.strip_suffix("h/").map_or(key.clone(), |event| format!("{event}l"));
        Some(Flood { key, revision: number(create, 3)?, watch: number(create, 7)? })
    }

    /// Shows ever new events, or changes of the level at the begin of the range.
    pub(crate) async fn run(
        mut self,
        has_names: bool,
        to_client: Arc<AsyncMutex<SendStream<Bytes>>>,
        count: impl Fn(),
    ) -> Option<()> {
        loop {
            let mut events = varint(2, self.watch);
            for _ in 0..1_000 {
                self.revision += 1;
                let (key, value) = if has_names {
                    (format!("{}n{}/l", self.key, self.revision), b"1")
                } else {
                    (self.key.clone(), b"0")
                };
                // kv = 2, and in it key = 1, create_revision = 2, mod_revision = 3, version = 4, value = 5
                let numbers = [varint(2, self.revision), varint(3, self.revision), varint(4, 1)].concat();
                let kv = [bytes(1, key.as_bytes()), numbers, bytes(5, value)].concat();
                events.extend(bytes(11, &bytes(2, &kv)));
            }
            send(&mut *to_client.lock().await, framed(&events), false).await?;
            count();
        }
    }
}

/// A `RangeResponse` with further keys, to a `RangeRequest`, after gRPC's prefix, for the keys of a namespace.
pub(crate) fn further_keys(message: Option<&[u8]>, size: usize, made_up: &mut u64) -> Option<Vec<u8>> {
    // key = 1, range_end = 2
    let message = message?.get(5..)?;
    content(message, 2)?;
    let key = std::str::from_utf8(content(message, 1)?).ok()?;
    let prefix = &key[..key.find("/e/")? + 3];
    let (mut page, value) = (varint(3, 1), vec![b'x'; size]);
    for _ in 0..if size == 0 { 20_000 } else { 3 } {
        *made_up += 1;
        let kv = [bytes(1, format!("{prefix}n{made_up:012}/l").as_bytes()), bytes(5, &value)].concat();
        page.extend(bytes(2, &kv));
    }
    Some(page)
}

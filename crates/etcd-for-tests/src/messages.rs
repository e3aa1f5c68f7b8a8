//! Messages of gRPC and of protobuf, read and written by hand: a stand-in knows a few fields of them.

use bytes::Bytes;
use h2::SendStream;

/// Splits a stream into messages, each with gRPC's prefix of a flag and a length.
#[derive(Default)]
pub(crate) struct Messages(Vec<u8>);

impl Messages {
    pub(crate) fn take(&mut self, data: &[u8]) -> Vec<Bytes> {
        self.0.extend(data);
        let mut whole = Vec::new();
        while let Some(prefix) = self.0.first_chunk::<5>() {
            let length = 5 + u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
            if self.0.len() < length {
                break;
            }
            whole.push(self.0.drain(..length).collect());
        }
        whole
    }
}

/// Sends data as far as the window of the stream allows, until all of it is sent.
pub(crate) async fn send(to: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) -> Option<()> {
    while !data.is_empty() {
        to.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|context| to.poll_capacity(context)).await?.ok()?;
        let piece = data.split_to(capacity.min(data.len()));
        let ends = is_last && data.is_empty();
        to.send_data(piece, ends).ok()?;
        if ends {
            return Some(());
        }
    }
    if is_last { to.send_data(data, true).ok() } else { Some(()) }
}

/// A field of a message of protobuf.
pub(crate) enum Field<'m> {
    Number(u64),
    Bytes(&'m [u8]),
}

/// The first field with this number. Fields before it are skipped by their wire types.
pub(crate) fn field(mut rest: &[u8], number: u64) -> Option<Field<'_>> {
    let varint = |rest: &mut &[u8]| {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, after) = rest.split_first()?;
            *rest = after;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    };
    loop {
        let tag = varint(&mut rest)?;
        let value = varint(&mut rest)?;
        let field = match tag & 7 {
            0 => Field::Number(value),
            2 => {
                let content;
                (content, rest) = rest.split_at_checked(usize::try_from(value).ok()?)?;
                Field::Bytes(content)
            }
            _ => return None,
        };
        if tag >> 3 == number {
            return Some(field);
        }
    }
}

/// A field of protobuf that is a number.
pub(crate) fn varint(tag: u8, mut value: u64) -> Vec<u8> {
    let mut bytes = vec![tag << 3];
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

/// A field of protobuf that is a string, bytes or a message.
pub(crate) fn bytes(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = varint(tag, content.len() as u64);
    bytes[0] |= 2;
    bytes.extend(content);
    bytes
}

/// A message, with gRPC's prefix of a flag and a length.
pub(crate) fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("messages are small");
    [&[0][..], &length.to_be_bytes(), message].concat().into()
}

/// The first field with this number, if it is a string, bytes or a message.
pub(crate) fn content(message: &[u8], number: u64) -> Option<&[u8]> {
    match field(message, number)? {
        Field::Bytes(content) => Some(content),
        Field::Number(_) => None,
    }
}

/// The first field with this number, if it is a number that is not 0.
pub(crate) fn number(message: &[u8], number: u64) -> Option<u64> {
    match field(message, number)? {
        Field::Number(value) => Some(value).filter(|value| *value != 0),
        Field::Bytes(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_split_into_messages() {
        let two = [framed(b"one"), framed(b"")].concat();
        let mut messages = Messages::default();
        let whole: Vec<Bytes> = two.chunks(2).flat_map(|piece| messages.take(piece)).collect();
        assert_eq!(whole, [framed(b"one"), framed(b"")]);
    }
}

//! The baseline: the part of etcd's protocol that an event needs, with as little around it as tonic allows. It promises
//! nothing: a lost connection or a lost answer is an error.
//!
//! The messages are written by hand, with the fields that are used, so that no protobuf compiler is needed.

use etcd_for_tests::Servers;
use prost::Message;
use tokio::runtime::{Builder, Runtime};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{IntoStreamingRequest, Request, Status, Streaming};
use tonic_prost::ProstCodec;

/// Starts servers that sync their disks, as in production.
pub fn servers(nodes: usize) -> Servers {
    Servers::build().members(nodes).durable().start()
}

/// The key that all clients of a cell put, read and watch.
pub const KEY: &str = "/bare/event";

/// A runtime in the calling thread.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// A connection to one member.
#[derive(Clone)]
pub struct Connection(Grpc<Channel>);

impl Connection {
    pub async fn to(endpoint: &str) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{endpoint}")).expect("an endpoint");
        Connection(Grpc::new(endpoint.connect().await.expect("a member that answers")))
    }

    async fn call<Q, A>(&mut self, path: &'static str, request: Q) -> Result<A, Status>
    where
        Q: Message + 'static,
        A: Message + Default + 'static,
    {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))?;
        let codec = ProstCodec::<Q, A>::default();
        Ok(self.0.unary(Request::new(request), PathAndQuery::from_static(path), codec).await?.into_inner())
    }

    pub async fn put(&mut self, key: &str, value: &str) -> Result<(), Status> {
        self.call("/etcdserverpb.KV/Put", Put::new(key, value)).await.map(|Empty {}| ())
    }

    /// A linearizable read.
    pub async fn get(&mut self, key: &str) -> Result<RangeAnswer, Status> {
        self.call("/etcdserverpb.KV/Range", Range { key: key.into(), ..Range::default() }).await
    }

    pub async fn transact(&mut self, transaction: Txn) -> Result<TxnAnswer, Status> {
        self.call("/etcdserverpb.KV/Txn", transaction).await
    }

    /// Creates this many watches of the same keys on one stream, numbered from 1, and waits until the server has
    /// confirmed all of them.
    pub async fn watch(&mut self, key: &str, range_end: &str, watches: i64) -> Streaming<WatchAnswer> {
        self.watch_each(vec![(key.to_owned(), range_end.to_owned()); watches as usize]).await
    }

    /// As [`watch`](Connection::watch), of many ranges.
    pub async fn watch_each(&mut self, ranges: Vec<(String, String)>) -> Streaming<WatchAnswer> {
        let watches = ranges.len();
        let requests = ranges.into_iter().zip(1..).map(|((key, range_end), watch_id)| {
            let create = WatchCreate { key: key.into_bytes(), range_end: range_end.into_bytes(), watch_id };
            Watch { create: Some(create) }
        });
        // The request stream stays open without further requests.
        let requests = tokio_stream::iter(requests).chain(tokio_stream::pending());
        self.0.ready().await.expect("a member that answers");
        let path = PathAndQuery::from_static("/etcdserverpb.Watch/Watch");
        let codec = ProstCodec::<Watch, WatchAnswer>::default();
        let answers = self.0.streaming(Request::new(requests).into_streaming_request(), path, codec).await;
        let mut answers = answers.expect("a stream of watches").into_inner();
        for _ in 0..watches {
            let answer = answers.message().await.expect("a watch").expect("a watch");
            assert!(answer.created && !answer.canceled, "the server watches");
        }
        answers
    }
}

/// The number of the watch that reports the next change.
pub async fn change(answers: &mut Streaming<WatchAnswer>) -> i64 {
    let answer = answers.message().await.expect("a watch that goes on").expect("a watch that goes on");
    assert!(!answer.events.is_empty(), "a watch tells of changes");
    answer.watch_id
}

/// The number of changes that the next message reports.
pub async fn changes(answers: &mut Streaming<WatchAnswer>) -> usize {
    answers.message().await.expect("a watch that goes on").expect("a watch that goes on").events.len()
}

/// An answer, or a part of one, whose content is ignored.
#[derive(Clone, PartialEq, Message)]
pub struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub struct Header {
    #[prost(int64, tag = "3")]
    pub revision: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Put {
    fn new(key: &str, value: &str) -> Put {
        Put { key: key.into(), value: value.into() }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Range {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    limit: i64,
    #[prost(bool, tag = "8")]
    keys_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct RangeAnswer {
    #[prost(message, repeated, tag = "2")]
    pub kvs: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub key: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    pub value: Vec<u8>,
}

/// A `oneof`.
#[derive(Clone, PartialEq, Message)]
pub struct Op {
    #[prost(message, optional, tag = "1")]
    range: Option<Range>,
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

impl Op {
    pub fn put(key: &str, value: &str) -> Op {
        Op { put: Some(Put::new(key, value)), range: None }
    }

    /// A range of keys with their values; the end is exclusive.
    pub fn range(key: &str, range_end: &str) -> Op {
        Op { range: Some(Range { key: key.into(), range_end: range_end.into(), ..Range::default() }), put: None }
    }

    /// Whether a key exists.
    pub fn any(key: &str, range_end: &str) -> Op {
        let range = Range { key: key.into(), range_end: range_end.into(), limit: 1, keys_only: true };
        Op { range: Some(range), put: None }
    }
}

/// A `oneof`.
#[derive(Clone, PartialEq, Message)]
pub struct OpAnswer {
    #[prost(message, optional, tag = "1")]
    pub range: Option<RangeAnswer>,
}

/// The condition that a key was last changed at a revision; 0 if the key does not exist.
#[derive(Clone, PartialEq, Message)]
pub struct Compare {
    /// 2: the revision of the last change.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "6")]
    mod_revision: Option<i64>,
}

impl Compare {
    pub fn last_changed_at(key: &str, revision: i64) -> Compare {
        Compare { target: 2, key: key.into(), mod_revision: Some(revision) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub success: Vec<Op>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TxnAnswer {
    #[prost(message, optional, tag = "1")]
    pub header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub responses: Vec<OpAnswer>,
}

/// The variant of a `oneof` that is used.
#[derive(Clone, PartialEq, Message)]
pub struct Watch {
    #[prost(message, optional, tag = "1")]
    create: Option<WatchCreate>,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    range_end: Vec<u8>,
    #[prost(int64, tag = "7")]
    watch_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct WatchAnswer {
    #[prost(int64, tag = "2")]
    watch_id: i64,
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(message, repeated, tag = "11")]
    events: Vec<Empty>,
}

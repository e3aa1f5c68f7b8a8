//! The messages of etcd's protocol that this crate uses.
//!
//! Written by hand from etcd's `rpc.proto` and `kv.proto`, so that no protobuf compiler is needed.
//! Unused fields are left out, which the encoding allows. Of a `oneof`, at most one field is set.

use prost::Message;

/// A unary request.
pub(crate) trait Rpc: Message + Clone + 'static {
    type Answer: Message + Default + 'static;
    const PATH: &'static str;
}

macro_rules! rpc {
    ($($request:ty => $answer:ty: $path:literal;)*) => {$(
        impl Rpc for $request {
            type Answer = $answer;
            const PATH: &'static str = concat!("/", $path);
        }
    )*};
}

rpc! {
    Range => RangeAnswer: "etcdserverpb.KV/Range";
    Txn => TxnAnswer: "etcdserverpb.KV/Txn";
    LeaseGrant => LeaseGrantAnswer: "etcdserverpb.Lease/LeaseGrant";
    LeaseRevoke => Empty: "etcdserverpb.Lease/LeaseRevoke";
    Authenticate => Token: "etcdserverpb.Auth/Authenticate";
    StatusOf => StatusAnswer: "etcdserverpb.Maintenance/Status";
    MemberList => MemberListAnswer: "etcdserverpb.Cluster/MemberList";
    HealthCheck => Empty: "grpc.health.v1.Health/Check";
}

/// The paths of the streams.
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

/// A message whose fields are not used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Empty {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Header {
    #[prost(uint64, tag = "1")]
    pub(crate) cluster_id: u64,
    #[prost(int64, tag = "3")]
    pub(crate) revision: i64,
    #[prost(uint64, tag = "4")]
    pub(crate) raft_term: u64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(int64, tag = "2")]
    pub(crate) create_revision: i64,
    #[prost(int64, tag = "3")]
    pub(crate) mod_revision: i64,
    /// The number of times that the key was put since it was created.
    #[prost(int64, tag = "4")]
    pub(crate) version: i64,
    #[prost(bytes = "vec", tag = "5")]
    pub(crate) value: Vec<u8>,
    /// The lease that it is attached to; 0 for none.
    #[prost(int64, tag = "6")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Range {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) limit: i64,
    /// 0 for the newest.
    #[prost(int64, tag = "4")]
    pub(crate) revision: i64,
    /// Whether the member answers without the leader.
    #[prost(bool, tag = "7")]
    pub(crate) serializable: bool,
    #[prost(bool, tag = "8")]
    pub(crate) keys_only: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct RangeAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    pub(crate) more: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Put {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) value: Vec<u8>,
    /// 0 for none.
    #[prost(int64, tag = "3")]
    pub(crate) lease: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct DeleteRange {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
}

impl Range {
    /// A read of one key.
    pub(crate) fn of(key: Vec<u8>) -> Range {
        Range { key, ..Range::default() }
    }

    /// A serializable read, which shows the term and the ID of the cluster.
    pub(crate) fn peek(key: Vec<u8>) -> Range {
        Range { key, limit: 1, serializable: true, keys_only: true, ..Range::default() }
    }
}

/// A `oneof`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Op {
    #[prost(message, optional, tag = "1")]
    range: Option<Range>,
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
    #[prost(message, optional, tag = "3")]
    delete_range: Option<DeleteRange>,
}

impl Op {
    /// The key that it changes. `None` if it changes a range, or nothing.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        match (&self.put, &self.delete_range) {
            (Some(put), _) => Some(&put.key),
            (None, Some(delete)) if delete.range_end.is_empty() => Some(&delete.key),
            _ => None,
        }
    }
}

impl From<Range> for Op {
    fn from(range: Range) -> Op {
        Op { range: Some(range), ..Op::default() }
    }
}

impl From<Put> for Op {
    fn from(put: Put) -> Op {
        Op { put: Some(put), ..Op::default() }
    }
}

impl From<DeleteRange> for Op {
    fn from(delete_range: DeleteRange) -> Op {
        Op { delete_range: Some(delete_range), ..Op::default() }
    }
}

/// A `oneof`; the other answers are not used.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct OpAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) range: Option<RangeAnswer>,
}

/// Compares the revision at which a key was last changed; 0 if the key does not exist.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Compare {
    /// 0 for `EQUAL`.
    #[prost(int32, tag = "1")]
    result: i32,
    /// 2 for `MOD`.
    #[prost(int32, tag = "2")]
    target: i32,
    #[prost(bytes = "vec", tag = "3")]
    key: Vec<u8>,
    #[prost(int64, optional, tag = "6")]
    mod_revision: Option<i64>,
}

impl Compare {
    pub(crate) fn last_changed_at(key: Vec<u8>, revision: i64) -> Compare {
        Compare { result: 0, target: 2, key, mod_revision: Some(revision) }
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Txn {
    #[prost(message, repeated, tag = "1")]
    pub(crate) compare: Vec<Compare>,
    #[prost(message, repeated, tag = "2")]
    pub(crate) success: Vec<Op>,
    #[prost(message, repeated, tag = "3")]
    pub(crate) failure: Vec<Op>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct TxnAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(bool, tag = "2")]
    pub(crate) succeeded: bool,
    #[prost(message, repeated, tag = "3")]
    pub(crate) responses: Vec<OpAnswer>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseGrant {
    /// In seconds.
    #[prost(int64, tag = "1")]
    pub(crate) ttl: i64,
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseGrantAnswer {
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct LeaseRevoke {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeepAlive {
    #[prost(int64, tag = "1")]
    pub(crate) id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeepAliveAnswer {
    #[prost(int64, tag = "2")]
    pub(crate) id: i64,
    /// 0 if the lease has expired.
    #[prost(int64, tag = "3")]
    pub(crate) ttl: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Authenticate {
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    #[prost(string, tag = "2")]
    pub(crate) password: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Token {
    #[prost(string, tag = "2")]
    pub(crate) token: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusOf {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(string, tag = "2")]
    pub(crate) version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberList {}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberListAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    members: Vec<Member>,
}

impl MemberListAnswer {
    /// The client URLs of voting members.
    pub(crate) fn urls(self) -> impl Iterator<Item = String> {
        self.members.into_iter().filter(|member| !member.is_learner).flat_map(|member| member.client_urls)
    }
}

#[derive(Clone, PartialEq, Message)]
struct Member {
    #[prost(string, repeated, tag = "4")]
    client_urls: Vec<String>,
    #[prost(bool, tag = "5")]
    is_learner: bool,
}

/// gRPC's health check, for all services of a server.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct HealthCheck {}

/// A `oneof`.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Watch {
    #[prost(message, optional, tag = "1")]
    pub(crate) create: Option<WatchCreate>,
    #[prost(message, optional, tag = "2")]
    pub(crate) cancel: Option<WatchCancel>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchCreate {
    #[prost(bytes = "vec", tag = "1")]
    pub(crate) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(crate) range_end: Vec<u8>,
    #[prost(int64, tag = "3")]
    pub(crate) start_revision: i64,
    /// Chosen by the client, since 3.4.
    #[prost(int64, tag = "7")]
    pub(crate) watch_id: i64,
    /// Whether large messages may be split.
    #[prost(bool, tag = "8")]
    pub(crate) fragment: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchCancel {
    #[prost(int64, tag = "1")]
    pub(crate) watch_id: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchAnswer {
    #[prost(message, optional, tag = "1")]
    pub(crate) header: Option<Header>,
    #[prost(int64, tag = "2")]
    pub(crate) watch_id: i64,
    #[prost(bool, tag = "3")]
    pub(crate) created: bool,
    #[prost(bool, tag = "4")]
    pub(crate) canceled: bool,
    #[prost(int64, tag = "5")]
    pub(crate) compact_revision: i64,
    #[prost(string, tag = "6")]
    pub(crate) cancel_reason: String,
    /// Whether the message continues in the next one.
    #[prost(bool, tag = "7")]
    pub(crate) fragment: bool,
    #[prost(message, repeated, tag = "11")]
    pub(crate) events: Vec<KeyEvent>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct KeyEvent {
    /// 0 for `PUT`, 1 for `DELETE`.
    #[prost(int32, tag = "1")]
    pub(crate) kind: i32,
    #[prost(message, optional, tag = "2")]
    pub(crate) kv: Option<KeyValue>,
}

impl KeyEvent {
    pub(crate) fn is_delete(&self) -> bool {
        self.kind == 1
    }
}

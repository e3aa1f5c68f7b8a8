//! What the types promise: auto traits.

use std::panic::{RefUnwindSafe, UnwindSafe};

use tantara_etcd::{
    Change, Changes, Cluster, ClusterEntry, ClusterEvent, ClusterWait, ClusterWaiter, Error, Hold, Options, Origin,
    Outage, Pending, Tls,
};

/// May be sent, shared, moved, kept for any time, and used after a panic.
const fn free<T: Send + Sync + Unpin + UnwindSafe + RefUnwindSafe + 'static>() {}

const _: () = {
    free::<Change>();
    free::<Changes>();
    free::<Cluster>();
    free::<ClusterEntry>();
    free::<ClusterEvent>();
    free::<ClusterWait>();
    free::<ClusterWaiter>();
    free::<Error>();
    free::<Hold>();
    free::<Options>();
    free::<Origin>();
    free::<Outage>();
    free::<Pending>();
    free::<Tls>();
};

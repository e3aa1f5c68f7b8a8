//! Leases: what a process leaves in the cluster for as long as it lives. One task keeps all of them alive.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tantara::Event;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};
use tonic::Code;

use crate::error::{Error, Why};
use crate::link::Link;
use crate::wire::{KEEP_ALIVE, KeepAlive, KeepAliveAnswer, LeaseGrant, LeaseRevoke};

/// After a failed attempt.
const AGAIN: Duration = Duration::from_millis(200);

/// What is spent on giving back leases when the connection ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// A lease that is kept alive. Dropping it gives it back, and everything that hangs on it ends.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) id: i64,
    kept: Arc<Kept>,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
struct Kept {
    /// Set when the cluster has ended the lease, or may have.
    lost: Event,
    ttl: Duration,
    /// Until when the cluster keeps it for certain, by this machine's clock.
    until: Mutex<Instant>,
}

impl Lease {
    /// Set when the lease has ended: the cluster said so, or it could not be kept alive for as long as it lasts.
    pub(crate) fn lost(&self) -> &Event {
        &self.kept.lost
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.kept.lost.is_set() || Instant::now() >= self.kept.until()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Who keeps it may have gone; then it ends by itself.
        let _ = self.orders.send(Order::Revoke(self.id));
    }
}

impl Kept {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn extend(&self, until: Instant) {
        let mut known = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        *known = until.max(*known);
    }
}

#[derive(Debug)]
enum Order {
    Keep(i64, Arc<Kept>),
    Revoke(i64),
}

/// Where leases are had.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    link: Arc<Link>,
    orders: mpsc::UnboundedSender<Order>,
}

impl Leases {
    /// The place, and the task that keeps them, which gives back all that is left when `stop` is ready.
    pub(crate) fn new(link: Arc<Link>, stop: impl Future<Output = ()>) -> (Leases, impl Future<Output = ()>) {
        let (orders, inbox) = mpsc::unbounded_channel();
        let keeper = Keeper { link: Arc::clone(&link), inbox, kept: HashMap::new(), next: HashMap::new() };
        (Leases { link, orders }, keeper.run(stop))
    }

    pub(crate) async fn grant(&self, doing: &'static str, ttl: Duration, until: Instant) -> Result<Lease, Error> {
        // Chosen here, so that asking again does not make a second one.
        let id = fastrand::i64(1..);
        let seconds = i64::try_from(ttl.as_secs_f64().ceil().max(1.0) as u64).unwrap_or(i64::MAX);
        let asked = Instant::now();
        let granted = match self.link.call(doing, &LeaseGrant { ttl: seconds, id }, until).await {
            Ok(answer) => answer.ttl,
            // It exists: an attempt of ours has made it whose answer was lost.
            Err(failure) if failure.may_be_done && failure.status == Some(Code::FailedPrecondition) => seconds,
            Err(failure) => return Err(failure.error),
        };
        let ttl = Duration::from_secs(u64::try_from(granted).unwrap_or(1));
        let kept = Arc::new(Kept { lost: Event::new(), ttl, until: Mutex::new(asked + ttl) });
        let _ = self.orders.send(Order::Keep(id, Arc::clone(&kept)));
        Ok(Lease { id, kept, orders: self.orders.clone() })
    }
}

struct Keeper {
    link: Arc<Link>,
    inbox: mpsc::UnboundedReceiver<Order>,
    kept: HashMap<i64, Arc<Kept>>,
    /// When each is to be kept alive next.
    next: HashMap<i64, Instant>,
}

impl Keeper {
    async fn run(mut self, stop: impl Future<Output = ()>) {
        tokio::pin!(stop);
        let mut revoking = JoinSet::new();
        let far = Duration::from_secs(3_600);
        loop {
            let due = self.next.values().min().copied().unwrap_or_else(|| Instant::now() + far);
            tokio::select! {
                order = self.inbox.recv() => match order {
                    Some(order) => self.obey(order, &mut revoking),
                    None => break,
                },
                () = sleep_until(due) => self.keep_alive().await,
                Some(_) = revoking.join_next() => {}
                () = &mut stop => break,
            }
        }
        while let Ok(order) = self.inbox.try_recv() {
            self.obey(order, &mut revoking);
        }
        for id in std::mem::take(&mut self.kept).into_keys() {
            revoking.spawn(revoke(Arc::clone(&self.link), id));
        }
        let _ = timeout_at(Instant::now() + FAREWELL, revoking.join_all()).await;
    }

    fn obey(&mut self, order: Order, revoking: &mut JoinSet<()>) {
        match order {
            Order::Keep(id, kept) => {
                self.next.insert(id, kept.until() - kept.ttl.mul_f64(2.0 / 3.0));
                self.kept.insert(id, kept);
            }
            Order::Revoke(id) => {
                self.next.remove(&id);
                // One that was lost is gone already, or cannot be reached.
                if self.kept.remove(&id).is_some_and(|kept| !kept.lost.is_set()) {
                    revoking.spawn(revoke(Arc::clone(&self.link), id));
                }
            }
        }
    }

    /// Keeps alive those whose time it is.
    async fn keep_alive(&mut self) {
        let now = Instant::now();
        self.kept.retain(|id, kept| {
            let is_lost = now >= kept.until();
            if is_lost {
                self.next.remove(id);
                kept.lost.set();
            }
            !is_lost
        });
        let due: Vec<i64> = self.next.iter().filter(|(_, at)| **at <= now).map(|(id, _)| *id).collect();
        let Some(soonest) = due.iter().filter_map(|id| self.kept.get(id)).map(|kept| kept.until()).min() else {
            return;
        };
        // Tried again at another member while there is time.
        let attempt = (now + Duration::from_secs(2)).min(soonest);
        let answers = timeout_at(attempt, self.ask(&due)).await.unwrap_or_default();
        for (id, ttl) in answers {
            let Some(kept) = self.kept.get(&id) else { continue };
            if ttl <= 0 {
                kept.lost.set();
                self.kept.remove(&id);
                self.next.remove(&id);
            } else {
                // Counted from the question, because the cluster may have begun to count then.
                kept.extend(now + Duration::from_secs(ttl.unsigned_abs()));
                self.next.insert(id, now + kept.ttl / 3);
            }
        }
        let again = Instant::now() + AGAIN;
        for id in due {
            if let (Some(next), Some(kept)) = (self.next.get_mut(&id), self.kept.get(&id))
                && *next <= now
            {
                *next = again.min(kept.until());
            }
        }
    }

    async fn ask(&self, ids: &[i64]) -> Vec<(i64, i64)> {
        let mut answers = Vec::new();
        let Ok(connection) = self.link.connection("keep leases alive", self.link.request_deadline()).await else {
            return answers;
        };
        let requests: Vec<KeepAlive> = ids.iter().map(|&id| KeepAlive { id }).collect();
        let asking = async {
            let mut stream =
                connection.stream::<KeepAlive, KeepAliveAnswer>(KEEP_ALIVE, tokio_stream::iter(requests)).await?;
            while answers.len() < ids.len() {
                match stream.message().await? {
                    Some(answer) => answers.push((answer.id, answer.ttl)),
                    None => break,
                }
            }
            Ok::<(), tonic::Status>(())
        };
        let why = match connection.while_it_serves(asking).await {
            Ok(Ok(())) => return answers,
            Ok(Err(status)) => Why::of(&status),
            Err(why) => why,
        };
        self.link.distrust(&connection, why);
        answers
    }
}

async fn revoke(link: Arc<Link>, id: i64) {
    // If it cannot be done, the lease ends by itself.
    let _ = link.call("give a lease back", &LeaseRevoke { id }, link.request_deadline()).await;
}

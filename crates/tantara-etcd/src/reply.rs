//! An answer on its way from the connection's thread to whoever asked: to block on, or to await under any runtime.

use std::sync::{Arc, Mutex, PoisonError};

use tantara::Event;

use crate::error::{Error, Kind};

#[derive(Debug)]
struct Desk<T> {
    answer: Mutex<Option<T>>,
    is_there: Event,
}

/// The asker's side.
#[derive(Debug)]
pub(crate) struct Reply<T>(Arc<Desk<Result<T, Error>>>);

/// The answerer's side. Dropped without an answer, it says that the connection has ended.
#[derive(Debug)]
pub(crate) struct Promise<T>(Arc<Desk<Result<T, Error>>>);

pub(crate) fn pair<T>() -> (Promise<T>, Reply<T>) {
    let desk = Arc::new(Desk { answer: Mutex::new(None), is_there: Event::new() });
    (Promise(Arc::clone(&desk)), Reply(desk))
}

impl<T> Promise<T> {
    pub(crate) fn keep(self, answer: Result<T, Error>) {
        *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
    }
}

impl<T> Drop for Promise<T> {
    fn drop(&mut self) {
        self.0.is_there.set();
    }
}

impl<T> Reply<T> {
    pub(crate) fn wait(self) -> Result<T, Error> {
        self.0.is_there.wait();
        self.take()
    }

    fn take(&self) -> Result<T, Error> {
        let answer = self.0.answer.lock().unwrap_or_else(PoisonError::into_inner).take();
        answer.unwrap_or_else(|| Err(Error::new(Kind::Ended { why: "the connection to etcd has been closed" })))
    }

    pub(crate) async fn into_future(self) -> Result<T, Error> {
        self.0.is_there.wait_async().await;
        self.take()
    }
}

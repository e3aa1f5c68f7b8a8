//! Locking a mutex, poisoned or not.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks a mutex. Every critical section of this crate leaves its data valid where it can panic, so
/// poisoning is ignored.
pub(crate) fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

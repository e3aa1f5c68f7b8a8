//! The parameters of a run.

use std::io;

use crate::customer::Customer;
use crate::script::Pace;

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The customers, in order.
    pub customers: Vec<Customer>,
    /// The number of workers, at least one: threads of the pool or of the async runtime, or processes.
    pub workers: usize,
    /// The factor by which pauses are multiplied.
    pub pace: Pace,
}

impl Plan {
    /// Fails if nobody would serve the customers.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.workers {
            0 => Err(io::Error::new(io::ErrorKind::InvalidInput, "the plan has no workers, expected at least one")),
            _ => Ok(()),
        }
    }
}

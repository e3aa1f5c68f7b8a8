//! The parameters of a run.

use crate::customer::Customer;
use crate::script::Pace;

/// The parameters of a run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The customers, in order.
    pub customers: Vec<Customer>,
    /// The number of workers: threads of the pool or of the async runtime, or processes.
    pub workers: usize,
    /// The factor by which pauses are multiplied.
    pub pace: Pace,
}

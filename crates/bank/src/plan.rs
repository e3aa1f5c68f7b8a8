//! What is to be run.

use crate::customer::Customer;
use crate::script::Pace;

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Who comes, in order.
    pub customers: Vec<Customer>,
    /// How many workers serve them: threads of the pool or of the async runtime, or processes.
    pub workers: usize,
    /// How fast time passes.
    pub pace: Pace,
}

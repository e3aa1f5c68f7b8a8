//! What `wait` waits for of its events: that they are set, clear, or set once more.

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Aim {
    Set,
    Unset,
    Next,
}

impl Aim {
    /// Whether an event in this state fulfils the condition, for a check without a wait.
    pub(crate) fn is_met_by(self, is_set: bool) -> bool {
        match self {
            Aim::Set => is_set,
            Aim::Unset => !is_set,
            Aim::Next => false,
        }
    }

    /// What a wait that has timed out says of an event.
    pub(crate) fn failing(self) -> &'static str {
        match self {
            Aim::Set => "not set",
            Aim::Unset => "still set",
            Aim::Next => "not set meanwhile",
        }
    }

    /// What a wait says that it waits for.
    pub(crate) fn waiting(self) -> &'static str {
        match self {
            Aim::Set => "waiting for",
            Aim::Unset => "waiting until clear:",
            Aim::Next => "waiting for the next set of",
        }
    }
}

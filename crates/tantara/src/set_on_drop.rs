//! [`SetOnDrop`]: sets an event when it is dropped, also by a panic.

#![forbid(unsafe_code)]

use std::fmt;
use std::panic::{AssertUnwindSafe, Location, RefUnwindSafe, UnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;

use crate::auto_reset::AutoResetEvent;
use crate::event::Event;
use crate::stored;
use crate::wait;
use crate::waits::hooks::{self, Identity, Kind, Place, Subject};
use crate::wakers::set_from_drop;

/// Sets an event when it is dropped, also when a panic drops it. From [`Event::set_on_drop`] and
/// [`Event::set_on_drop_owned`], and from the methods of the same names of the other kinds of
/// events.
///
/// It prevents the hang that follows when a thread or task ends before it has set the event that
/// others wait for.
///
/// # Cancel safety
///
/// A future that holds one sets the event when it is dropped, at whatever `.await` it is.
///
/// # Leaks
///
/// If its destructor does not run, the event is not set: [`mem::forget`](std::mem::forget), a cycle
/// of `Arc`s, [`process::exit`](std::process::exit), and the end of the process by a signal or an
/// abort.
///
/// # Memory ordering
///
/// Dropping it is a `set`: everything that the thread did before is visible to the threads and
/// tasks that it releases.
///
/// # Panics
///
/// If the waker of a waiting task panics, dropping it panics, as `set` does. While the thread is
/// panicking already, such a second panic is discarded, and the program is not aborted. It is
/// discarded as well if the drop is nested in nine others or more, because each has woken a task that
/// was dropped with the next of these values: tasks are then woken after the drop.
///
/// # Examples
///
/// ```
/// use std::thread;
/// use tantara::Event;
///
/// static LOADED: Event = Event::new();
///
/// let loader = thread::spawn(|| {
///     let _loaded = LOADED.set_on_drop();
///     panic!("no configuration");     // without the line above, the next wait would hang
/// });
/// LOADED.wait();
/// assert!(loader.join().is_err());    // released; whether the work succeeded is another question
/// ```
///
/// Bind it to a name. `let _ = LOADED.set_on_drop();` drops it, and sets the event, at once.
#[must_use = "if it is not bound to a name it is dropped at once, which sets the event"]
pub struct SetOnDrop<'a> {
    setter: Setter<'a>,
    /// Where it was made.
    place: Place,
    /// The declaration, if it is recorded; else zero.
    declaration: u64,
}

enum Setter<'a> {
    Event(&'a Event),
    AutoReset(&'a AutoResetEvent),
    OwnedEvent(Arc<Event>),
    OwnedAutoReset(Arc<AutoResetEvent>),
    External(Option<Identity>, Box<dyn FnOnce() + Send + Sync>),
    Disarmed,
}

impl<'a> SetOnDrop<'a> {
    /// Drops it without setting the event.
    ///
    /// ```
    /// use tantara::Event;
    ///
    /// let done = Event::new();
    /// let guard = done.set_on_drop();
    /// guard.disarm();                 // somebody else will set it
    /// assert!(!done.is_set());
    /// ```
    #[track_caller]
    pub fn disarm(mut self) {
        if self.declaration != 0 {
            if let Some(event) = self.setter.subject() {
                hooks::give_up(event.address, self.declaration);
            }
        }
        self.setter = Setter::Disarmed;
    }

    #[track_caller]
    fn new(setter: Setter<'a>) -> SetOnDrop<'a> {
        let place = Location::caller();
        let subject = if hooks::is_wanted() { setter.subject() } else { None };
        let may_move = !matches!(setter, Setter::Event(_) | Setter::AutoReset(_));
        let declare = |event| hooks::declare(event, place, may_move, || setter.note_sets());
        let declaration = subject.map_or(0, declare);
        SetOnDrop { setter, place, declaration }
    }

    /// For an event that lives outside of this process, with its identity in the record of waits, if it
    /// is known there.
    #[track_caller]
    pub(crate) fn external(event: Option<Identity>, set: impl FnOnce() + Send + Sync + 'static) -> SetOnDrop<'a> {
        SetOnDrop::new(Setter::External(event, Box::new(set)))
    }
}

impl Setter<'_> {
    fn set(self, place: Place) {
        match self {
            Setter::Event(event) => event.set_from(place),
            Setter::AutoReset(event) => event.set_from(place),
            Setter::OwnedEvent(event) => event.set_from(place),
            Setter::OwnedAutoReset(event) => event.set_from(place),
            Setter::External(_, set) => set(),
            Setter::Disarmed => {}
        }
    }

    /// See [`Sealed`](crate::slots::sealed::Sealed).
    fn note_sets(&self) {
        match self {
            Setter::Event(event) => wait::note_sets(event.queue()),
            Setter::AutoReset(event) => stored::note_all(event.queue()),
            Setter::OwnedEvent(event) => wait::note_sets(event.queue()),
            Setter::OwnedAutoReset(event) => stored::note_all(event.queue()),
            Setter::External(..) | Setter::Disarmed => {}
        }
    }

    /// The event in the record of waits.
    fn subject(&self) -> Option<Subject<'_>> {
        match self {
            Setter::Event(event) => Some(event.queue().subject(Kind::Event)),
            Setter::AutoReset(event) => Some(event.queue().subject(Kind::AutoReset)),
            Setter::OwnedEvent(event) => Some(event.queue().subject(Kind::Event)),
            Setter::OwnedAutoReset(event) => Some(event.queue().subject(Kind::AutoReset)),
            Setter::External(event, _) => event.map(hooks::outside),
            Setter::Disarmed => None,
        }
    }
}

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        let (setter, place) = (std::mem::replace(&mut self.setter, Setter::Disarmed), self.place);
        if self.declaration != 0 {
            if let Some(event) = setter.subject() {
                hooks::keep(event, self.declaration, place);
            }
        }
        if !thread::panicking() {
            return set_from_drop(|| setter.set(place));
        }
        // A panic that left this destructor would abort the process.
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| set_from_drop(|| setter.set(place)))) {
            // Its destructor might panic, too.
            std::mem::forget(panic);
        }
    }
}

impl fmt::Debug for SetOnDrop<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let event: &dyn fmt::Debug = match &self.setter {
            Setter::Event(event) => event,
            Setter::AutoReset(event) => event,
            Setter::OwnedEvent(event) => event,
            Setter::OwnedAutoReset(event) => event,
            Setter::External(..) => return f.debug_struct("SetOnDrop").finish_non_exhaustive(),
            Setter::Disarmed => &"disarmed",
        };
        f.debug_tuple("SetOnDrop").field(event).finish()
    }
}

// A panic leaves the events in a valid state.
impl UnwindSafe for SetOnDrop<'_> {}
impl RefUnwindSafe for SetOnDrop<'_> {}

impl Event {
    /// Sets the event when the returned value is dropped, however the scope is left: at its end, by
    /// `return` or `?`, or by a panic. [`disarm`](SetOnDrop::disarm) prevents that.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io;
    /// use tantara::Event;
    ///
    /// static FINISHED: Event = Event::new();
    ///
    /// fn migrate() -> io::Result<()> {
    ///     let _finished = FINISHED.set_on_drop();
    ///     Err(io::Error::other("no database"))?;      // sets the event, and so would a panic
    ///     Ok(())
    /// }
    ///
    /// assert!(migrate().is_err());
    /// FINISHED.wait();
    /// ```
    #[track_caller]
    pub fn set_on_drop(&self) -> SetOnDrop<'_> {
        SetOnDrop::new(Setter::Event(self))
    }

    /// [`set_on_drop`](Event::set_on_drop) for an event in an [`Arc`], which the returned value then
    /// owns together with others. So it can be moved into a thread or a task, or stored in a struct.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::sync::Arc;
    /// use std::thread;
    /// use tantara::Event;
    ///
    /// let done = Arc::new(Event::new());
    /// let guard = Arc::clone(&done).set_on_drop_owned();
    /// thread::spawn(move || {
    ///     let _guard = guard;
    ///     // work
    /// });
    /// done.wait();
    /// ```
    #[track_caller]
    pub fn set_on_drop_owned(self: Arc<Self>) -> SetOnDrop<'static> {
        SetOnDrop::new(Setter::OwnedEvent(self))
    }
}

impl AutoResetEvent {
    /// Sets the event when the returned value is dropped, also by a panic: see
    /// [`Event::set_on_drop`]. One waiter is released, or the release is stored.
    #[track_caller]
    pub fn set_on_drop(&self) -> SetOnDrop<'_> {
        SetOnDrop::new(Setter::AutoReset(self))
    }

    /// [`set_on_drop`](AutoResetEvent::set_on_drop) for an event in an [`Arc`], which the returned
    /// value then owns together with others.
    #[track_caller]
    pub fn set_on_drop_owned(self: Arc<Self>) -> SetOnDrop<'static> {
        SetOnDrop::new(Setter::OwnedAutoReset(self))
    }
}

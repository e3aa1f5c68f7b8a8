//! The subcommands for events of processes and machines.

pub(crate) mod aim;
mod args;
mod awaited;
pub(crate) mod change;
mod check;
mod conditions;
mod duration;
pub(crate) mod entry;
mod hint;
mod hold;
mod is_set;
mod list;
pub(crate) mod origin;
mod outage;
mod place;
pub(crate) mod printer;
mod remove;
mod set;
mod tcp;
pub(crate) mod text;
mod wait;
pub(crate) mod waiter;
mod watch;
mod why;

use std::time::Instant;

use crate::failure::Failure;
use crate::{local, system};

pub(crate) use args::Action;
use args::Names;
use change::Change;
use place::Place;
pub(crate) use place::{ClusterArgs, PlaceArgs};

pub(crate) fn run(action: Action, place: PlaceArgs) -> Result<(), Failure> {
    let began = Instant::now();
    // Check all names before anything is done.
    for name in action.names() {
        check::name(name).map_err(|error| match &action {
            Action::Wait(wait) if wait.command.is_empty() && system::check_program(name.as_ref()).is_ok() => {
                Failure::usage(format!("{error}; to run it as a command after the wait, put -- before it"))
            }
            Action::Wait(_) if name.contains('/') => {
                Failure::usage(format!("{error}; to wait for a file, write --file {}", text::short(name)))
            }
            _ => Failure::usage(error),
        })?;
    }
    match &action {
        Action::Hold(hold) => hold.check()?,
        Action::Set(set) => set.check()?,
        Action::Pulse(pulse) => pulse.note.check()?,
        Action::Ps { .. } => {
            local::check_ps()?;
            // Before the cluster is connected to.
            if place.is_cluster() {
                return Err(Failure::usage(
                    "ps shows waits inside of processes of this machine: use it without --etcd, and unset TANTARA_ETCD",
                ));
            }
        }
        _ => {}
    }
    let time_limit = action.time_limit();
    if let Action::Wait(wait) = &action {
        // Before the place is opened, because the ID of a process that ends may be reused.
        let conditions = wait::prepare(wait)?;
        let place = if wait.names.is_empty() { None } else { Some(Place::new(place, time_limit)?) };
        return wait::run(place, &conditions, wait, began);
    }
    let place = Place::new(place, time_limit)?;
    match action {
        Action::Set(set) => set::run(place, &set),
        Action::Clear(Names { names }) => place.change(&names, Change::Clear),
        Action::Pulse(pulse) => place.change(&pulse.names, Change::Pulse(pulse.note.text())),
        Action::Wait(_) => Ok(()),
        Action::Hold(hold) => hold::run(place, hold),
        Action::IsSet(is_set) => is_set::run(&place, &is_set),
        Action::Ls { names, json } => list::run(&place, &names, json),
        Action::Ps { pid, json } => match &place {
            Place::Directory(directory) => local::ps(directory, pid, json),
            // It was refused above.
            Place::Cluster(_) => Ok(()),
        },
        Action::Watch(watch) => watch::run(&place, &watch, began),
        Action::Rm(rm) => remove::run(&place, &rm),
    }
}

impl Failure {
    /// An event could not be used: bad input if its name or directory is invalid or its file is no event, else a
    /// failure.
    pub(crate) fn of_event(error: tantara::Error) -> Failure {
        if error.is_invalid_name() || error.is_invalid_note() || error.is_not_an_event() {
            Failure::usage(error)
        } else {
            let source = std::error::Error::source(&error);
            let of_cluster = source.and_then(|source| source.downcast_ref::<tantara_etcd::Error>());
            let may_pass = of_cluster.is_some_and(tantara_etcd::Error::is_unreachable);
            Failure::internal(error).that_may_pass(may_pass)
        }
    }

    /// An event in a cluster could not be used: bad input if an argument is invalid, else a failure.
    pub(crate) fn of_cluster(error: tantara_etcd::Error) -> Failure {
        let may_pass = error.is_unreachable();
        let failure = if error.is_invalid_input() { Failure::usage(error) } else { Failure::internal(error) };
        failure.that_may_pass(may_pass)
    }
}

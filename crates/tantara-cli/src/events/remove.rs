//! `tantara rm`.

use crate::events::args::Rm;
use crate::events::place::{Place, Region};
use crate::failure::Failure;
use crate::local::{Directory, LocalEvent};

pub(crate) fn run(place: &Place, rm: &Rm) -> Result<(), Failure> {
    match place {
        Place::Directory(directory) => {
            let events = if rm.all { directory.all()? } else { named(place, directory, rm)? };
            events.iter().try_for_each(LocalEvent::remove)
        }
        Place::Cluster(region) => remove_from(place, region, rm),
    }
}

fn named(place: &Place, directory: &Directory, rm: &Rm) -> Result<Vec<LocalEvent>, Failure> {
    let mut events = Vec::new();
    for name in &rm.names {
        match directory.find(name)? {
            Some(event) => events.push(event),
            None if rm.force => {}
            None => return Err(Failure::usage(place.unknown(name))),
        }
    }
    Ok(events)
}

fn remove_from(place: &Place, region: &Region, rm: &Rm) -> Result<(), Failure> {
    let known: Vec<String> = if rm.force && !rm.all {
        rm.names.clone()
    } else {
        let entries = region.cluster.list().map_err(Failure::of_cluster)?;
        entries.into_iter().map(|entry| entry.name).collect()
    };
    if let Some(name) = rm.names.iter().find(|name| !known.contains(name)) {
        return Err(Failure::usage(place.unknown(name)));
    }
    let names = if rm.all { &known } else { &rm.names };
    let remove = |name: &String| region.cluster.event(name).remove().map(drop);
    names.iter().try_for_each(remove).map_err(Failure::of_cluster)
}

//! `tantara rm`.

use crate::events::Place;
use crate::failure::Failure;

pub(crate) fn run(place: &Place, names: &[String]) -> Result<(), Failure> {
    match place {
        Place::Directory(directory) => {
            let mut events = Vec::new();
            for name in names {
                events.push(directory.find(name)?.ok_or_else(|| Failure::usage(place.unknown(name)))?);
            }
            events.iter().try_for_each(|event| event.remove().map(drop)).map_err(Failure::of_event)
        }
        Place::Cluster(region) => {
            let known = region.cluster.list().map_err(Failure::of_cluster)?;
            let is_unknown = |name: &&String| !known.iter().any(|entry| entry.name == **name);
            if let Some(name) = names.iter().find(is_unknown) {
                return Err(Failure::usage(place.unknown(name)));
            }
            let remove = |name: &String| region.cluster.event(name).remove().map(drop);
            names.iter().try_for_each(remove).map_err(Failure::of_cluster)
        }
    }
}

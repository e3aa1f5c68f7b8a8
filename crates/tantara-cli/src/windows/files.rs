//! Paths and permissions of files, and the name of the machine.

use std::borrow::Cow;
use std::path::Path;

/// The name of this machine.
pub(crate) fn host() -> String {
    let name = std::env::var("COMPUTERNAME").unwrap_or_default();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// A path as the user has written it, as far as it is Unicode.
pub(crate) fn bytes_of(path: &Path) -> Cow<'_, [u8]> {
    match path.to_string_lossy() {
        Cow::Borrowed(text) => text.as_bytes().into(),
        Cow::Owned(text) => text.into_bytes().into(),
    }
}

/// Nothing tells of the end of a reader but a write.
pub(crate) fn end_with_reader() {}

/// A new file gets the permissions of its directory in any case.
pub(crate) fn permit_as_other_files(_: &mut tempfile::Builder<'_, '_>) {}

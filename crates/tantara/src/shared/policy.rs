//! The directory is the policy: what users may do with a new event follows from what they may do in
//! its directory.
//!
//! A new file gets the directory's read and write permissions, whatever the umask; its group; its
//! access control list, if it has one; and its owner, if the process may change owners. If the
//! process may not set the directory's group, the file's group gets the permissions of all others.

#![forbid(unsafe_code)]

use std::fs::{File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};

use crate::shared::file;
use crate::sys::files;

const READ_AND_WRITE: u32 = 0o666;

/// Gives a new file the permissions of an event in that directory. `true` if some users may only
/// read it. The owner is changed last ([`give`]), because the process may not change the file
/// afterwards.
pub(crate) fn apply(file: &File, directory: &File) -> io::Result<bool> {
    let home = directory.metadata()?;
    // With SGID the kernel has set it; and in a user namespace the group's number may not be valid.
    let has_group = home.mode() & libc::S_ISGID != 0 || fchown(file, None, Some(home.gid())).is_ok();
    let with_group = |mode: u32, group: u32| mode & !0o070 | group << 3;
    let mode = home.mode() & READ_AND_WRITE;
    let everybodys = mode & 0o007;
    // The kernel has given the file the directory's default list, which is not what the directory
    // itself grants.
    files::drop_access_list(file);
    let list = files::access_list(directory);
    let is_known = list.is_ok();
    let list = list.ok().flatten().and_then(AccessList::parse);
    let mode = match list {
        Some(list) => {
            let list = list.of_file(has_group);
            if files::set_access_list(file, &list.0).is_ok() {
                return Ok(true);
            }
            // With a list, the group's bits of the mode are a mask.
            with_group(mode, list.group().unwrap_or(everybodys) & mode >> 3)
        }
        None if has_group && is_known => mode,
        // There may be a list that cannot be read. The group's bits would then be its mask.
        None if has_group => with_group(mode, everybodys & mode >> 3),
        None => with_group(mode, everybodys),
    };
    match file.set_permissions(Permissions::from_mode(mode)) {
        // The file system has fixed modes.
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => {}
        set => set?,
    }
    Ok(file::has_readers(&file.metadata()?))
}

/// Gives the file to the directory's owner, if that is allowed.
pub(crate) fn give(file: &File, directory: &File) {
    let owners = [directory, file].map(|file| file.metadata().ok().map(|metadata| metadata.uid()));
    match owners {
        // If it is not allowed, the owner stays.
        [Some(to), Some(from)] if to != from => _ = fchown(file, Some(to), None),
        _ => {}
    }
}

/// An access control list in the kernel's format: a version, and entries of a tag, permissions, and
/// a user or group.
struct AccessList(Vec<u8>);

const VERSION: u32 = 2;
const ENTRY: usize = 8;
const OWNING_GROUP: u16 = 0x04;
const OTHERS: u16 = 0x20;

impl AccessList {
    fn parse(bytes: Vec<u8>) -> Option<AccessList> {
        let (version, entries) = bytes.split_first_chunk()?;
        (u32::from_le_bytes(*version) == VERSION && entries.len() % ENTRY == 0).then_some(AccessList(bytes))
    }

    fn permissions(&self, tag: u16) -> Option<u16> {
        let number = |entry: &[u8], at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
        self.0[4..].chunks_exact(ENTRY).find(|entry| number(entry, 0) == tag).map(|entry| number(entry, 2))
    }

    /// The permissions of the owning group.
    fn group(&self) -> Option<u32> {
        self.permissions(OWNING_GROUP).map(|permissions| u32::from(permissions) & 0o6)
    }

    /// The list for a file in the directory: without the right to execute. If the file's group is
    /// not the directory's, it gets the permissions of all others.
    fn of_file(mut self, has_group: bool) -> AccessList {
        let others = self.permissions(OTHERS).unwrap_or(0);
        for entry in self.0[4..].chunks_exact_mut(ENTRY) {
            let is_group = u16::from_le_bytes([entry[0], entry[1]]) == OWNING_GROUP;
            let own = u16::from_le_bytes([entry[2], entry[3]]);
            let permissions = if is_group && !has_group { others } else { own } & 0o6;
            entry[2..4].copy_from_slice(&permissions.to_le_bytes());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        let entry = |&(tag, permissions, who): &(u16, u16, u32)| {
            [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &who.to_le_bytes()].concat()
        };
        [VERSION.to_le_bytes().to_vec(), entries.iter().flat_map(entry).collect()].concat()
    }

    #[test]
    fn a_list_is_taken_over_without_the_right_to_execute() {
        let all = u32::MAX;
        let bytes = list(&[(1, 7, all), (2, 5, 1001), (4, 7, all), (16, 7, all), (32, 5, all)]);
        let own = AccessList::parse(bytes.clone()).unwrap().of_file(true);
        assert_eq!(own.0, list(&[(1, 6, all), (2, 4, 1001), (4, 6, all), (16, 6, all), (32, 4, all)]));
        assert_eq!(own.group(), Some(6));
        let foreign = AccessList::parse(bytes).unwrap().of_file(false);
        assert_eq!(foreign.0, list(&[(1, 6, all), (2, 4, 1001), (4, 4, all), (16, 6, all), (32, 4, all)]));
    }

    #[test]
    fn what_is_no_list_is_none() {
        for bytes in [&[][..], &[2, 0, 0], &[3, 0, 0, 0], &[2, 0, 0, 0, 1, 0, 7]] {
            assert!(AccessList::parse(bytes.to_vec()).is_none(), "{bytes:?}");
        }
    }
}

//! Linux: the few operations on files that the standard library does not have.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::ptr;

fn done(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The user whose permissions apply.
pub(crate) fn user() -> u32 {
    // SAFETY: takes nothing and always succeeds.
    unsafe { libc::geteuid() }
}

/// A file in memory with this content. It has no name, and its size is sealed.
pub(crate) fn sealed_memory(content: &[u8]) -> io::Result<File> {
    // Not executable. Some systems require this flag, and older kernels do not know it.
    const NOEXEC_SEAL: libc::c_uint = 0x8;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: the name is a C string.
    let create = |flags| done(unsafe { libc::memfd_create(c"tantara".as_ptr(), flags) });
    let number = match create(flags | NOEXEC_SEAL) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => create(flags)?,
        created => created?,
    };
    // SAFETY: the descriptor is new, and owned by this function.
    let file = File::from(unsafe { OwnedFd::from_raw_fd(number) });
    write(&file, content)?;
    let seals = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
    // SAFETY: F_ADD_SEALS takes a number.
    done(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) })?;
    Ok(file)
}

/// Writes to a new file. If the process may not write files of that length (`ulimit -f`), that is an
/// error, and not a signal, which would end the process.
pub(crate) fn write(mut file: &File, content: &[u8]) -> io::Result<()> {
    // SAFETY: all zeros are a valid set.
    let [mut signal, mut before, mut pending]: [libc::sigset_t; 3] = unsafe { std::mem::zeroed() };
    // SAFETY: the set is valid for writing.
    unsafe { libc::sigemptyset(&mut signal) };
    // SAFETY: as above, and the signal exists.
    unsafe { libc::sigaddset(&mut signal, libc::SIGXFSZ) };
    // SAFETY: the sets are valid.
    unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &signal, &mut before) };
    // SAFETY: the set is valid for writing.
    unsafe { libc::sigpending(&mut pending) };
    let written = io::Write::write_all(&mut file, content);
    // SAFETY: the set is valid, and the signal exists.
    let is_ours = unsafe { libc::sigismember(&pending, libc::SIGXFSZ) } == 0;
    if is_ours && written.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EFBIG)) {
        // SAFETY: all zeros are a valid time.
        let at_once: libc::timespec = unsafe { std::mem::zeroed() };
        // The kernel has sent it to this thread, unless it is ignored.
        // SAFETY: the set and the time are valid.
        unsafe { libc::sigtimedwait(&signal, ptr::null_mut(), &at_once) };
    }
    // SAFETY: the mask is the previous one of this thread.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &before, ptr::null_mut()) };
    written
}

/// Whether the file can never be truncated.
pub(crate) fn is_sealed(file: &File) -> bool {
    // SAFETY: F_GET_SEALS takes nothing; on a file that knows no seals it fails.
    let seals = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) };
    seals != -1 && seals & libc::F_SEAL_SHRINK != 0
}

/// Opens a file by its name in a directory (`man 2 openat`).
pub(crate) fn open_at(directory: &File, name: &CStr, flags: libc::c_int, mode: u32) -> io::Result<File> {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: the name is a C string; the mode has the type that variadic arguments are passed as.
    let number = done(unsafe { libc::openat(directory.as_raw_fd(), name.as_ptr(), flags, mode) })?;
    // SAFETY: the descriptor is new, and owned by this function.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Gives a file another name, or its first one, in a directory, if the name is free.
pub(crate) fn link_at(file: &File, directory: &File, name: &CStr) -> io::Result<()> {
    let from = own_link(file)?;
    let follow = libc::AT_SYMLINK_FOLLOW;
    // SAFETY: both are C strings that live until the end of this function.
    done(unsafe { libc::linkat(libc::AT_FDCWD, from.as_ptr(), directory.as_raw_fd(), name.as_ptr(), follow) }).map(drop)
}

/// Gives a file of a directory another name there, if the name is free.
pub(crate) fn link_name_at(directory: &File, from: &CStr, to: &CStr) -> io::Result<()> {
    let number = directory.as_raw_fd();
    // SAFETY: both are C strings that live until the end of this function.
    done(unsafe { libc::linkat(number, from.as_ptr(), number, to.as_ptr(), 0) }).map(drop)
}

/// Whether this user may unlink the file in the directory.
pub(crate) fn may_unlink(directory: &File, file: &File) -> io::Result<()> {
    let (home, own, user) = (directory.metadata()?, file.metadata()?, user());
    let is_sticky = home.permissions().mode() & libc::S_ISVTX != 0;
    let is_stranger = is_sticky && ![0, home.uid(), own.uid()].contains(&user);
    if is_stranger || !may(directory, libc::W_OK | libc::X_OK) {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

/// Renames within a directory, if the new name is free.
pub(crate) fn rename_at(directory: &File, from: &CStr, to: &CStr) -> io::Result<()> {
    let number = directory.as_raw_fd();
    let flags = libc::RENAME_NOREPLACE;
    // SAFETY: both are C strings that live until the end of this function.
    let renamed = unsafe { libc::syscall(libc::SYS_renameat2, number, from.as_ptr(), number, to.as_ptr(), flags) };
    // Some file systems cannot do that, and some sandboxes do not know the call. Linking never
    // replaces a file either.
    let unable = [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP, libc::EPERM].map(Some);
    match if renamed == -1 { Err(io::Error::last_os_error()) } else { Ok(()) } {
        Err(error) if unable.contains(&error.raw_os_error()) => {
            // Checked first: a user who may link the file, but not unlink it, would leave it with
            // two names.
            may_unlink(directory, &open_at(directory, from, libc::O_PATH | libc::O_NOFOLLOW, 0)?)?;
            link_name_at(directory, from, to)?;
            unlink_twin(directory, from, to)
        }
        renamed => renamed,
    }
}

/// Renames within a directory. A file that has the new name loses it.
pub(crate) fn replace_at(directory: &File, from: &CStr, to: &CStr) -> io::Result<()> {
    let number = directory.as_raw_fd();
    // SAFETY: the names are C strings.
    done(unsafe { libc::renameat(number, from.as_ptr(), number, to.as_ptr()) }).map(drop)
}

/// Calls `end` when the process exits, but not when a signal or `_exit` ends it.
pub(crate) fn at_exit(end: extern "C" fn()) {
    // SAFETY: the function exists for as long as the process does, or, in a library that can be
    // unloaded, the C library calls it before that.
    unsafe { libc::atexit(end) };
}

/// Unlinks the name `name` of the file that also has the name `other`. If it has lost one of them,
/// another process has renamed it.
pub(crate) fn unlink_twin(directory: &File, name: &CStr, other: &CStr) -> io::Result<()> {
    let number = |name| {
        let metadata = open_at(directory, name, libc::O_PATH | libc::O_NOFOLLOW, 0)?.metadata()?;
        Ok((metadata.dev(), metadata.ino()))
    };
    let unlinked = match (number(name), number(other)) {
        (Ok(number), Ok(other)) if number == other => unlink_at(directory, name),
        (Err(error), _) | (_, Err(error)) => Err(error),
        _ => Ok(()),
    };
    match unlinked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        unlinked => unlinked,
    }
}

/// Unlinks a name.
pub(crate) fn unlink_at(directory: &File, name: &CStr) -> io::Result<()> {
    // SAFETY: the name is a C string that lives until the end of this function.
    done(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Whether the user has these permissions (`R_OK`, `W_OK`, `X_OK`) on a directory.
pub(crate) fn may(directory: &File, access: libc::c_int) -> bool {
    // SAFETY: the path is a C string.
    unsafe { libc::faccessat(directory.as_raw_fd(), c".".as_ptr(), access, libc::AT_EACCESS) == 0 }
}

const ACCESS_LIST: &CStr = c"system.posix_acl_access";

/// The access control list of a directory, if it has one, in the kernel's format (`man 5 acl`).
pub(crate) fn access_list(directory: &File) -> io::Result<Option<Vec<u8>>> {
    let path = own_link(directory)?;
    let mut list = vec![0; 4096];
    // SAFETY: both names are C strings; the buffer may be written to, and is as long as is said.
    let length = unsafe { libc::getxattr(path.as_ptr(), ACCESS_LIST.as_ptr(), list.as_mut_ptr().cast(), list.len()) };
    let Ok(length) = usize::try_from(length) else {
        let error = io::Error::last_os_error();
        let has_none = [libc::ENODATA, libc::EOPNOTSUPP].map(Some).contains(&error.raw_os_error());
        return if has_none { Ok(None) } else { Err(error) };
    };
    list.truncate(length);
    Ok(Some(list))
}

/// Removes a file's access control list, if it has one.
pub(crate) fn drop_access_list(file: &File) {
    // SAFETY: the name is a C string.
    unsafe { libc::fremovexattr(file.as_raw_fd(), ACCESS_LIST.as_ptr()) };
}

/// Gives a file an access control list.
pub(crate) fn set_access_list(file: &File, list: &[u8]) -> io::Result<()> {
    let (number, name) = (file.as_raw_fd(), ACCESS_LIST.as_ptr());
    // SAFETY: the name is a C string; the list is as long as is said.
    done(unsafe { libc::fsetxattr(number, name, list.as_ptr().cast(), list.len(), 0) }).map(drop)
}

/// The path by which this process can open an open file again.
fn own_link(file: &File) -> io::Result<CString> {
    Ok(CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?)
}

/// A new description of the file, for reading and writing. May be called in a signal handler: it
/// allocates nothing.
pub(crate) fn reopen_in_handler(file: &File) -> io::Result<File> {
    let mut path = [0; 32];
    // Short enough with any number; the rest is zeros.
    io::Write::write_fmt(&mut &mut path[..31], format_args!("/proc/self/fd/{}", file.as_raw_fd()))?;
    let path = CStr::from_bytes_until_nul(&path).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the path is a C string.
    let number = done(unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) })?;
    // SAFETY: the descriptor is new, and owned by this function.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Takes the file's advisory lock (`man 2 flock`), if it is free. The lock ends with the open file
/// description.
pub(crate) fn try_lock(file: &File) -> io::Result<()> {
    // SAFETY: takes two numbers.
    done(unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) }).map(drop)
}

/// Releases the lock.
pub(crate) fn unlock(file: &File) {
    // SAFETY: takes two numbers.
    unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_UN) };
}

/// Whether the descriptor is open for reading and writing.
pub(crate) fn is_writable(file: &File) -> bool {
    // SAFETY: F_GETFL takes nothing.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    flags != -1 && flags & libc::O_ACCMODE == libc::O_RDWR
}

/// A range of bytes that is locked, within the file or beyond its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) length: u64,
}

/// Marks the range by a read lock of the open file description (`man 2 fcntl`). The lock ends with
/// the description.
pub(crate) fn mark(file: &File, range: Range) -> io::Result<()> {
    range_lock(file, libc::F_OFD_SETLK, libc::F_RDLCK, range).map(drop)
}

/// Removes the mark, or the lock.
pub(crate) fn unmark(file: &File, range: Range) {
    // Fails only if the range must be split and there is no memory for that.
    let _ = range_lock(file, libc::F_OFD_SETLK, libc::F_UNLCK, range);
}

/// A range that another open file description has locked and that overlaps this one, and whether it
/// is a mark.
pub(crate) fn find_mark(file: &File, range: Range) -> io::Result<Option<(Range, bool)>> {
    let lock = range_lock(file, libc::F_OFD_GETLK, libc::F_WRLCK, range)?;
    if i32::from(lock.l_type) == libc::F_UNLCK {
        return Ok(None);
    }
    let start = lock.l_start.try_into().unwrap_or(0);
    // Zero means without an end.
    let length = lock.l_len.try_into().ok().filter(|&length| length > 0).unwrap_or(u64::MAX / 2 - start);
    Ok(Some((Range { start, length }, i32::from(lock.l_type) == libc::F_RDLCK)))
}

/// Whether another open file description has a write lock in the range.
pub(crate) fn is_write_locked(file: &File, range: std::ops::Range<u64>) -> io::Result<bool> {
    let range = Range { start: range.start, length: range.end - range.start };
    // Only a write lock conflicts with a read lock.
    let lock = range_lock(file, libc::F_OFD_GETLK, libc::F_RDLCK, range)?;
    Ok(i32::from(lock.l_type) != libc::F_UNLCK)
}

/// Locks the range for writing (`man 2 fcntl`, "Open file description locks"). `false` if another
/// description has a lock in it. The lock ends with the description.
pub(crate) fn try_write_lock(file: &File, range: Range) -> io::Result<bool> {
    match range_lock(file, libc::F_OFD_SETLK, libc::F_WRLCK, range) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EACCES)) => Ok(false),
        Err(error) => Err(error),
    }
}

fn range_lock(file: &File, command: libc::c_int, kind: libc::c_int, range: Range) -> io::Result<libc::flock64> {
    let out_of_range = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let mut lock = libc::flock64 {
        l_type: kind as _,
        l_whence: libc::SEEK_SET as _,
        l_start: range.start.try_into().map_err(out_of_range)?,
        l_len: range.length.try_into().map_err(out_of_range)?,
        l_pid: 0,
    };
    let lock_pointer: *mut libc::flock64 = &mut lock;
    // Not by the C library's `fcntl`, because glibc's expects 32-bit offsets for these commands on
    // 32-bit processors.
    #[cfg(target_pointer_width = "32")]
    let call = libc::SYS_fcntl64;
    #[cfg(not(target_pointer_width = "32"))]
    let call = libc::SYS_fcntl;
    // SAFETY: the commands that are given take a pointer to a flock64 that is valid for reading and
    // writing.
    if unsafe { libc::syscall(call, file.as_raw_fd(), command, lock_pointer) } == -1 {
        return Err(io::Error::last_os_error());
    }
    Ok(lock)
}

/// A duplicate of the descriptor `number`.
pub(crate) fn duplicate(number: RawFd) -> io::Result<File> {
    // SAFETY: F_DUPFD_CLOEXEC takes a number; if `number` is not open it fails.
    let number = done(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the descriptor is new, and owned by this function.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(number) }))
}

/// Passes the file to the program that `command` will start, under the same number.
pub(crate) fn hand_down(command: &mut Command, file: File) -> RawFd {
    let number = file.as_raw_fd();
    let keep = move || {
        // The closure owns the file, so the number is valid as long as the command can be started.
        let number = file.as_raw_fd();
        // SAFETY: F_SETFD takes a number.
        done(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })?;
        Ok(())
    };
    // SAFETY: between fork and exec it makes one system call, and allocates nothing unless that
    // fails with an error that needs no memory either.
    unsafe {
        command.pre_exec(keep);
    }
    number
}

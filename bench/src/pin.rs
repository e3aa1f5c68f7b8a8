//! The processors on which a thread runs.

/// The first two processors that this process may use, or the only one.
pub fn processors() -> Vec<usize> {
    let set = current();
    // SAFETY: every index is below the number of bits in the set.
    (0..libc::CPU_SETSIZE as usize).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).take(2).collect()
}

fn current() -> libc::cpu_set_t {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer refers to a set of the given size.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &mut set) };
    assert_eq!(result, 0, "the kernel does not say where this thread may run");
    set
}

/// Binds the calling thread and the threads that it starts later to these processors.
pub fn to(cpus: &[usize]) {
    // SAFETY: all zeroes is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for &cpu in cpus {
        // SAFETY: the index is from a set of the same size.
        unsafe { libc::CPU_SET(cpu, &mut set) };
    }
    // SAFETY: the pointer refers to a set of the given size.
    let result = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &set) };
    assert_eq!(result, 0, "the kernel does not bind this thread to processors {cpus:?}");
}

/// Puts the calling thread, and the threads that it starts later, into a class whose threads sleep at once: those of
/// the ordinary one give way to each other first.
pub fn to_idle_class() {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: zero stands for this thread, and the pointer refers to parameters that are valid for the class.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &none) };
    assert_eq!(result, 0, "the kernel does not change the class of this thread");
}

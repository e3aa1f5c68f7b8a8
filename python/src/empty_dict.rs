//! The dictionary of a new event's attributes.
//!
//! CPython 3.11 and 3.12 make it together with each object of a class that has `__dict__`, the other
//! versions when it is needed. The interpreter of 3.12 remembers where it has found the methods of
//! an object only if the object has no dictionary yet. It looks up the methods of all others for
//! each call, which took 13 of the 74 ns of an `await` of a set event. So in 3.12 a new event's
//! dictionary is freed. CPython makes another one for the first attribute.

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyDict;

/// Where the objects of a class keep that dictionary.
pub(crate) struct Place(PyOnceLock<Option<usize>>);

impl Place {
    pub(crate) const fn of_class() -> Place {
        Place(PyOnceLock::new())
    }

    /// Frees the dictionary of an object, which has this place for it, if it is empty and nobody
    /// has a reference to it.
    pub(crate) fn free_empty<T: PyClass>(&self, object: &Bound<'_, T>) {
        let py = object.py();
        let Some(offset) = *self.0.get_or_init(py, || offset::<T>(py)) else { return };
        // SAFETY: an object of the class has a pointer to a dictionary at that offset. So have those
        // of subclasses, which inherit the place. The thread has the lock of the interpreter (3.12
        // always has one), so no other thread reads or writes the pointer meanwhile.
        let place = unsafe { object.as_ptr().byte_add(offset).cast::<*mut ffi::PyObject>() };
        // SAFETY: as above.
        let dictionary = unsafe { place.read() };
        // SAFETY: the pointer is null or leads to an object that the place owns.
        let Some(borrowed) = (unsafe { Borrowed::from_ptr_or_opt(py, dictionary) }) else { return };
        let is_empty = borrowed.cast_exact::<PyDict>().is_ok_and(|dictionary| dictionary.is_empty());
        // SAFETY: as above.
        let is_free = unsafe { ffi::Py_REFCNT(dictionary) } == 1;
        if is_empty && is_free {
            // SAFETY: as above. The reference that the place has owned is given back once. Null
            // stands for an object that has no dictionary yet.
            unsafe {
                place.write(std::ptr::null_mut());
                ffi::Py_DecRef(dictionary);
            }
        }
    }
}

/// None in all versions but 3.12.
fn offset<T: PyClass>(py: Python<'_>) -> Option<usize> {
    let version = py.version_info();
    if (version.major, version.minor) != (3, 12) {
        return None;
    }
    // Negative if the interpreter manages the dictionary, zero if there is none.
    let offset: isize = py.get_type::<T>().getattr("__dictoffset__").ok()?.extract().ok()?;
    usize::try_from(offset).ok().filter(|offset| *offset > 0)
}

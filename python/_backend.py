"""The build backend: maturin, after a check of the Python that it builds for."""

import platform
import sys
import sysconfig

from maturin import *  # noqa: F403


def _why_not():
    name, version = platform.python_implementation(), platform.python_version()
    if name != "CPython":
        return f"this is {name} {version}; the package needs CPython 3.9 or newer"
    if sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14):
        return (
            f"this is the free-threaded build of CPython {version}, which was experimental; "
            "use a free-threaded CPython 3.14 or newer, or CPython 3.9 or newer with the interpreter's lock"
        )
    return None


_reason = _why_not()
if _reason is not None:
    raise SystemExit(f"tantara cannot be built here: {_reason}")

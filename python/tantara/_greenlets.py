"""Detection of gevent and eventlet, under which a blocking wait would block every greenlet of its thread."""

import sys
from typing import Any, Optional


def refusal() -> Optional[RuntimeError]:
    """Return the error to raise instead of blocking if this thread runs greenlets, else None.

    A thread runs greenlets if gevent has created a hub for it, or if an eventlet hub runs or has something to run. A
    hub runs other greenlets while one of them waits, but it does not know of waits for tantara's events. The threads
    of either library's pool have no hub, so they may block.
    """
    # Another thread may be importing either library, so that some of its names are missing. Then it runs nothing yet.
    get_hub: Any = getattr(sys.modules.get("gevent._hub_local"), "get_hub_if_exists", None)
    if get_hub is not None and get_hub() is not None:
        return _error("gevent", "gevent.get_hub().threadpool.apply(event.wait)")
    hub: Any = getattr(getattr(sys.modules.get("eventlet.hubs"), "_threadlocal", None), "hub", None)
    # Some versions create the hub when they are imported.
    if hub is not None and (hub.running or hub.get_timers_count()):
        return _error("eventlet", "eventlet.tpool.execute(event.wait)")
    return None


def _error(library: str, way_out: str) -> RuntimeError:
    return RuntimeError(
        f"a blocking wait would stop all greenlets of this thread, where {library} runs; "
        f"wait in a thread of its pool instead: {way_out}"
    )

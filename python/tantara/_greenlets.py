"""Where a wait that blocks its thread would block all greenlets of that thread too: under gevent and eventlet."""

import sys
from typing import Any, Optional


def refusal() -> Optional[RuntimeError]:
    """The error for a wait that would block, if greenlets take turns on this thread; None where none do.

    They do where gevent has made a hub, and where one of eventlet's runs or has something to run. A hub runs other
    greenlets while one of them waits, but it knows nothing of a wait for an event of tantara. Threads of the pools of
    both have no hub, so they may wait.
    """
    gevent: Any = sys.modules.get("gevent._hub_local")
    if gevent is not None and gevent.get_hub_if_exists() is not None:
        return _error("gevent", "gevent.get_hub().threadpool.apply(event.wait)")
    eventlet: Any = sys.modules.get("eventlet.hubs")
    hub = None if eventlet is None else getattr(eventlet._threadlocal, "hub", None)
    # Some versions make it when they are imported.
    if hub is not None and (hub.running or hub.get_timers_count()):
        return _error("eventlet", "eventlet.tpool.execute(event.wait)")
    return None


def _error(library: str, way_out: str) -> RuntimeError:
    return RuntimeError(
        f"a blocking wait would stop all greenlets of this thread, where {library} runs; "
        f"wait in a thread of its pool instead: {way_out}"
    )

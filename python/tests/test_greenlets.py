"""Under gevent and eventlet, a wait raises instead of blocking all greenlets of its thread."""

import importlib.util
import subprocess
import sys
import types
import unittest
import unittest.mock

from tantara import Event, wait_any
from test_event import LONG

WAITS = """
import threading
from tantara import *
event, gate, shared = Event(), AutoResetEvent(), SharedEvent()
waits = [
    event.wait, gate.wait, shared.wait, lambda: event.wait(5), lambda: gate.wait(timeout=5), lambda: shared.wait(5),
    lambda: wait_any([event, gate, shared]), lambda: wait_all([event, gate, shared], 5),
]
def are_refused(way_out):
    for wait in waits:
        try:
            wait()
            raise SystemExit("it was not refused")
        except RuntimeError as error:
            assert way_out in str(error), error
def refuse_nothing_else():
    for event in (Event(), AutoResetEvent(), SharedEvent()):
        assert event.wait(0) is False and wait_any([event], 0) is None and wait_all([event], 0) is False
        for wait in (event.wait, lambda: wait_any([event]) == 0, lambda: wait_all([event])):
            event.set()
            assert wait() is True
    results = []
    thread = original.Thread(target=lambda: results.append(Event().wait(0.001)))
    thread.start(); thread.join()
    assert results == [False], "another thread waits as always"
"""

GEVENT = """
import gevent.monkey
original = type("original", (), {"Thread": __import__("threading").Thread})
assert Event().wait(0.001) is False, "without a hub nobody is blocked"
released = gevent.spawn(lambda: gevent.get_hub().threadpool.apply(event.wait))
are_refused("gevent.get_hub().threadpool.apply(event.wait)")
gevent.spawn(are_refused, "gevent").get()
gevent.spawn(refuse_nothing_else).get()
refuse_nothing_else()
event.set()
assert released.get() is True
gevent.monkey.patch_all()
event.clear()
are_refused("gevent")
print("done")
"""

EVENTLET = """
import eventlet.tpool
original = eventlet.patcher.original("threading")
assert Event().wait(0.001) is False, "without a hub nobody is blocked"
released = eventlet.spawn(lambda: eventlet.tpool.execute(event.wait))
are_refused("eventlet.tpool.execute(event.wait)")
eventlet.spawn(are_refused, "eventlet").wait()
eventlet.spawn(refuse_nothing_else).wait()
refuse_nothing_else()
event.set()
assert released.wait() is True
eventlet.monkey_patch()
event.clear()
are_refused("eventlet")
print("done", flush=True)
"""


class Greenlets(unittest.TestCase):
    def runs(self, library, script):
        if importlib.util.find_spec(library) is None:
            self.skipTest(f"{library} is not installed (pip install {library})")
        run = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", WAITS + script], capture_output=True, text=True, timeout=LONG * 5
        )
        self.assertEqual((run.returncode, run.stdout), (0, "done\n"), run.stderr)

    def test_while_another_thread_imports_them(self):
        names = ("greenlet", "gevent._hub_local", "eventlet.hubs")
        for module in (types.ModuleType("unfinished"), None):
            with unittest.mock.patch.dict(sys.modules, {name: module for name in names}):
                self.assertIs(Event().wait(0.001), False)
                self.assertIsNone(wait_any([Event()], 0.001))

    def test_gevent(self):
        self.runs("gevent", GEVENT)

    def test_eventlet(self):
        self.runs("eventlet", EVENTLET)


if __name__ == "__main__":
    unittest.main()

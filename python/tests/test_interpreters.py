"""Several interpreters in one process, as mod_wsgi starts them."""

import importlib.util
import subprocess
import sys
import unittest

from test_event import LONG

USE = """
import asyncio, gc, tantara
from tantara import AutoResetEvent, Event, SharedEvent, wait_all, wait_any
event, shared = Event(), SharedEvent()
event.set(); shared.set()
for _ in range(1000):
    assert event.wait() and event.is_set() and event.wait(timeout=1) and not AutoResetEvent().wait(0)
assert wait_any([event]) == 0 and wait_all([event, shared]) and shared.waiters() == []
async def main():
    for kind in (Event, AutoResetEvent, SharedEvent):
        event = kind()
        asyncio.get_running_loop().call_soon(event.set)
        assert await event.wait_async()
        assert not await kind().wait_async(0.001)
asyncio.run(main())
class Door(Event):
    pass
door = Door()
door.itself = door
assert "unset" in repr(door)
try:
    Event().wait("x")
    raise AssertionError
except TypeError:
    pass
del door
gc.collect()
print("used", flush=True)
"""


@unittest.skipUnless(
    importlib.util.find_spec("_testcapi"), "this Python cannot start legacy subinterpreters: it has come without _testcapi"
)
class Interpreters(unittest.TestCase):
    def runs(self, script, uses):
        script = f"import _testcapi\nUSE = {USE!r}\n{script}"
        arguments = [sys.executable, "-X", "faulthandler", "-W", "ignore", "-c", script]
        run = subprocess.run(arguments, capture_output=True, text=True, timeout=LONG * 5)
        self.assertEqual((run.returncode, run.stdout), (0, "used\n" * uses), run.stderr)

    def test_one_after_another(self):
        self.runs("for _ in range(5): assert _testcapi.run_in_subinterp(USE) == 0", 5)

    def test_beside_the_main_interpreter(self):
        self.runs("exec(USE)\nfor _ in range(3): assert _testcapi.run_in_subinterp(USE) == 0\nexec(USE)", 5)

    def test_the_main_interpreter_is_the_last_to_import(self):
        self.runs("for _ in range(3): assert _testcapi.run_in_subinterp(USE) == 0\nexec(USE)\nexec(USE)", 5)

    def test_in_other_threads(self):
        self.runs(
            "import threading\n"
            "for _ in range(3):\n"
            "    thread = threading.Thread(target=_testcapi.run_in_subinterp, args=(USE,))\n"
            "    thread.start(); thread.join()\n"
            "exec(USE)",
            4,
        )

    def test_an_event_that_two_interpreters_fork_with(self):
        """Forks are detected, whichever interpreter imported the package first."""
        self.runs(
            "import os\n"
            "assert _testcapi.run_in_subinterp('import tantara') == 0\n"
            "import tantara\n"
            "event = tantara.AutoResetEvent()\n"
            "event.set()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    taken = event.wait(0)\n"
            "    os._exit(0 if taken and not event.is_set() else 1)\n"
            "assert os.waitpid(child, 0)[1] == 0 and event.is_set()\n",
            0,
        )


if __name__ == "__main__":
    unittest.main()

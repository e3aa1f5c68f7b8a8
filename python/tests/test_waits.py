"""The record of waits, in a process of its own, because it is that of a whole process."""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import unittest

PRELUDE = """
import asyncio, os, sys, threading, time
import tantara

def until(look):
    deadline = time.monotonic() + 60
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, [str(wait) for wait in tantara.waits()]
        time.sleep(0.01)

def line():
    return sys._getframe(1).f_lineno
"""


def run(program, leaves=0, **environment):
    """Run a program, which must succeed. It leaves so many pages of killed children."""
    with tempfile.TemporaryDirectory() as directory:
        settings = {**os.environ, "TANTARA_DIR": directory, **environment}
        script = os.path.join(directory, "program.py")
        with open(script, "w") as file:
            file.write(PRELUDE + textwrap.dedent(program))
        done = subprocess.run([sys.executable, script], env=settings, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        pages = [name for name in os.listdir(directory) if name.startswith(".waits-")]
        assert len(pages) <= leaves, "a page is removed at the exit"


class Recorded(unittest.TestCase):
    def test_a_thread_is_shown_with_its_name_and_its_own_line(self):
        run(
            """
            tantara.record_waits()
            ready = tantara.Event()
            tantara.label_event(ready, "ready")
            at = line() + 2
            def work():
                assert ready.wait(60)
            thread = threading.Thread(target=work, name="worker", daemon=True)
            thread.start()
            [wait] = until(tantara.waits)
            assert (wait.thread, wait.task, wait.mode, wait.released) == ("worker", None, "one", False), wait
            assert (wait.file, wait.line) == (__file__, at), wait
            assert wait.tid == thread.native_id and 0 < wait.time_left <= 60, wait
            assert (wait.events[0].name, wait.events[0].kind) == ("ready", "Event"), wait
            assert abs(wait.since.timestamp() - time.time()) < 60
            assert str(wait).startswith("thread worker (") and f"waits for ready at {__file__}:{at}, for " in str(wait)
            at = line() + 1
            ready.set()
            thread.join()
            assert tantara.waits() == []
            ready.clear()
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            [wait] = until(tantara.waits)
            last = wait.events[0].last_set
            assert (last.thread, last.file, last.line) == ("MainThread", __file__, at), last
            ready.set()
            """
        )

    def test_a_task_of_asyncio_is_shown_by_its_name(self):
        run(
            """
            async def main():
                ready, job = tantara.Event(), tantara.AutoResetEvent()
                tantara.label_event(ready, "ready")
                tantara.label_event(job, "job")
                lines = {}
                async def work():
                    lines["work"] = line() + 1
                    await ready.wait_async()
                async def either():
                    lines["either"] = line() + 1
                    await tantara.wait_any_async([ready, job])
                tasks = [asyncio.create_task(work(), name="first"), asyncio.create_task(either(), name="second")]
                await asyncio.sleep(0.05)
                waits = {wait.task: wait for wait in tantara.waits()}
                assert set(waits) == {"first", "second"}, waits
                assert (waits["first"].file, waits["first"].line) == (__file__, lines["work"]), waits
                assert (waits["second"].line, waits["second"].mode) == (lines["either"], "any"), waits
                assert [event.name for event in waits["second"].events] == ["ready", "job"], waits
                tasks[1].cancel()
                ready.set()
                await asyncio.wait(tasks)
                assert tantara.waits() == []
            asyncio.run(main())
            """,
            TANTARA_WAITS="1",
        )

    def test_nothing_is_recorded_unless_it_is_asked_for(self):
        run(
            """
            ready = tantara.Event()
            thread = threading.Thread(target=ready.wait, daemon=True)
            thread.start()
            time.sleep(0.05)
            assert tantara.waits() == []
            ready.set()
            """
        )

    def test_the_child_of_a_fork_records_its_own_waits(self):
        run(
            """
            ready = tantara.Event()
            tantara.label_event(ready, "ready")
            thread = threading.Thread(target=ready.wait, name="parent's", daemon=True)
            thread.start()
            until(tantara.waits)
            pid = os.fork()
            if pid == 0:
                assert tantara.waits() == []
                own = threading.Thread(target=ready.wait, args=(60,), name="child's", daemon=True)
                own.start()
                [wait] = until(tantara.waits)
                assert (wait.thread, wait.tid) == ("child's", own.native_id), wait
                assert wait.events[0].name == "ready", wait
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert [wait.thread for wait in tantara.waits()] == ["parent's"]
            ready.set()
            """,
            leaves=1,
            TANTARA_WAITS="1",
        )

    def test_what_a_signal_handler_raises_is_raised(self):
        """Also in the code that looks for the caller's line."""
        run(
            """
            import signal
            def interrupted():
                signal.raise_signal(signal.SIGINT)
                return found()
            def handler(*_):
                raise KeyboardInterrupt
            signal.signal(signal.SIGINT, handler)
            found = threading.current_thread
            event, gate = tantara.Event(), tantara.AutoResetEvent()
            held = tantara.SharedEvent()
            for act in (lambda: event.wait(60), lambda: gate.wait(60), event.set, gate.set, event.wait_async,
                        lambda: tantara.wait_any([event, gate], 60), held.hold):
                threading.current_thread = interrupted
                try:
                    act()
                    raise AssertionError(act)
                except KeyboardInterrupt:
                    pass
                finally:
                    threading.current_thread = found
            assert not event.is_set() and not gate.is_set() and not held.is_set()
            """,
            TANTARA_WAITS="1",
        )

    def test_the_children_of_a_fork_know_the_labels_of_their_parents(self):
        run(
            """
            events = {"ready": tantara.Event(), "job": tantara.AutoResetEvent(), "told": tantara.SharedEvent()}
            for name, event in events.items():
                tantara.label_event(event, name)
            def names():
                threads = [threading.Thread(target=event.wait, daemon=True) for event in events.values()]
                for thread in threads:
                    thread.start()
                until(lambda: len(tantara.waits()) == 3)
                return {wait.events[0].name for wait in tantara.waits()}
            def in_child(act):
                pid = os.fork()
                if pid == 0:
                    act()
                    os._exit(0)
                assert os.waitpid(pid, 0)[1] == 0
            def child():
                in_child(grandchild)
                assert names() == set(events), names()
            def grandchild():
                tantara.label_event(events["job"], "another")
                assert names() == {"ready", "another", "told"}, names()
            in_child(child)
            assert names() == set(events), names()
            os._exit(0)
            """,
            leaves=3,
            TANTARA_WAITS="1",
        )

    def test_bad_arguments_are_refused(self):
        run(
            """
            for bad in (None, threading.Event()):
                try:
                    tantara.label_event(bad, "name")
                except TypeError as error:
                    assert "takes an Event" in str(error), error
                else:
                    raise AssertionError(bad)
            """
        )

    @unittest.skipUnless(shutil.which("tantara"), "the command is not on the path")
    def test_the_command_shows_them(self):
        run(
            """
            import json, subprocess
            ready = tantara.Event()
            tantara.label_event(ready, "ready")
            thread = threading.Thread(target=lambda: ready.wait(), name="worker", daemon=True)
            thread.start()
            def shown():
                return json.loads(subprocess.check_output(["tantara", "ps", "--json"]))
            [process] = until(lambda: [found for found in shown() if found["total"]])
            assert process["pid"] == os.getpid() and process["groups"][0]["place"].startswith(__file__), process
            assert process["groups"][0]["waiters"][0]["thread"] == "worker", process
            ready.set()
            """,
            TANTARA_WAITS="1",
        )


if __name__ == "__main__":
    unittest.main()

"""Holds, and waits until an event is unset and for the next set(), between processes and machines."""

import asyncio
import fcntl
import gc
import os
import pickle
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import weakref

import test_cluster
from tantara import SharedEvent, SharedHold
from test_cluster import OnCluster
from test_event import LONG
from test_shared import steps_of_another_thread

HOLD = """
import sys, time
from tantara import SharedEvent
hold = SharedEvent(*sys.argv[1:]).hold()
print("held", flush=True)
time.sleep(60)
"""


def setUpModule():
    test_cluster.setUpModule()


def in_thread(call):
    """Start a thread for a call, and return a function that returns its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()

    def result():
        thread.join(LONG)
        return results[0]

    return result


class Holds(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = home.name

    def test_an_event_is_set_while_it_is_held(self):
        for event in (SharedEvent(), SharedEvent("x", self.home)):
            with event.hold() as hold:
                self.assertIsInstance(hold, SharedHold)
                self.assertTrue(event.is_set() and event.wait(0))
                event.clear()
                self.assertTrue(event.is_set())
                with event.hold():
                    pass
                self.assertTrue(event.is_set())
                self.assertRegex(repr(hold), r"^<SharedHold at 0x\w+ held>$")
            self.assertFalse(event.is_set())
            self.assertRegex(repr(hold), r"^<SharedHold at 0x\w+ released>$")
            hold.release()
            with self.assertRaises(ValueError):
                hold.__enter__()

    def test_a_hold_ends_with_the_object_and_survives_that_of_the_event(self):
        event = SharedEvent("x", self.home)
        hold = SharedEvent("x", self.home).hold()
        gc.collect()
        self.assertTrue(event.is_set())
        weak = weakref.ref(hold)
        with self.assertRaises(TypeError):
            pickle.dumps(hold)
        del hold
        gc.collect()
        self.assertIsNone(weak())
        self.assertFalse(event.is_set())

    def test_other_threads_run_while_a_hold_ends(self):
        """As if another process had been stopped while it ended one."""
        event = SharedEvent("x", self.home)

        def release(hold):
            hold.release()

        def forget(hold):
            pass

        with steps_of_another_thread() as steps, open(event.path, "r+b") as file:
            # The byte behind those of the holders, as `protocol/layout.rs` has it.
            end_of_holds, set_lock = (1 << 41) - 1, 37
            fcntl.fcntl(file, set_lock, struct.pack("hhqqi0q", fcntl.F_WRLCK, os.SEEK_SET, end_of_holds, 1, 0))
            for end in (release, forget):
                has_run, deadline = False, time.monotonic() + LONG
                while not has_run and time.monotonic() < deadline:
                    hold = [event.hold()]
                    before = steps()
                    end(hold.pop())
                    has_run = steps() != before
                self.assertTrue(has_run, f"{end.__name__} kept the interpreter's lock")

    def test_a_killed_holder_leaves_nothing_set(self):
        event = SharedEvent("x", self.home)
        for _ in range(3):
            holder = subprocess.Popen([sys.executable, "-c", HOLD, "x", self.home], stdout=subprocess.PIPE)
            with holder:
                self.assertEqual(holder.stdout.readline(), b"held\n")
                self.assertTrue(event.is_set())
                unset = in_thread(lambda: event.wait_unset(LONG))
                holder.kill()
            self.assertFalse(event.is_set())
            self.assertIs(unset(), True)

    def test_the_child_of_a_fork_holds_nothing(self):
        event = SharedEvent()
        hold = event.hold()
        child = os.fork()
        if child == 0:
            try:
                hold.release()
                time.sleep(60)
            finally:
                os._exit(0)
        try:
            time.sleep(0.05)
            self.assertTrue(event.is_set())
            hold.release()
            self.assertFalse(event.is_set())
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)

    def test_who_cannot_hold_is_told_so(self):
        event = SharedEvent("x", self.home)
        event.remove()
        with self.assertRaises(FileNotFoundError):
            event.hold()
        event.close()
        for call in (event.hold, event.wait_unset, event.wait_next, event.wait_unset_async, event.wait_next_async):
            with self.assertRaises(ValueError):
                call()


class Waits:
    """For events of both kinds."""

    def test_unset(self):
        event = self.event
        self.assertIs(event.wait_unset(), True)
        event.set()
        for timeout in (0, -1, 0.01):
            self.assertIs(event.wait_unset(timeout), False)
        unset = in_thread(lambda: event.wait_unset(LONG))
        time.sleep(0.1)
        event.clear()
        event.set()
        self.assertIs(unset(), True)

    def test_next(self):
        event = self.event
        event.set()
        for timeout in (0, -1, 0.01):
            self.assertIs(event.wait_next(timeout), False)
        results = []
        following = threading.Thread(target=lambda: results.append(event.wait_next(LONG)))
        following.start()
        while following.is_alive():
            event.set()
            time.sleep(0.01)
        self.assertEqual(results, [True])
        with self.assertRaises(TypeError):
            event.wait_next("1")

    def test_in_async_code(self):
        event = self.event

        async def main():
            event.set()
            self.assertIs(await event.wait_unset_async(0.01), False)
            self.assertIs(await event.wait_next_async(0.01), False)
            unset, following = event.wait_unset_async(), event.wait_next_async(LONG)
            await asyncio.sleep(0.2)
            event.set()
            self.assertIs(await following, True)
            event.clear()
            event.set()
            self.assertIs(await asyncio.wait_for(unset, LONG), True)
            task = asyncio.ensure_future(event.wait_next_async())
            await asyncio.sleep(0.01)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())

    def test_held(self):
        event = self.event
        with event.hold():
            self.assertIs(event.wait_unset(0.01), False)
            unset = in_thread(lambda: event.wait_unset(LONG))
            time.sleep(0.1)
        self.assertIs(unset(), True)


class BetweenProcesses(Waits, unittest.TestCase):
    def setUp(self):
        self.event = SharedEvent()

    def test_ctrl_c_interrupts_every_wait(self):
        self.event.set()
        for wait in (self.event.wait_unset, self.event.wait_next):
            timer = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
            timer.start()
            with self.assertRaises(KeyboardInterrupt):
                wait(LONG)
            timer.join()


class BetweenMachines(Waits, OnCluster):
    def setUp(self):
        super().setUp()
        self.event = self.cluster.event("x")


if __name__ == "__main__":
    unittest.main()

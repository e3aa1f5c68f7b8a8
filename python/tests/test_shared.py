"""SharedEvent as a replacement for multiprocessing.Event."""

import contextlib
import copy
import errno
import fcntl
import importlib.util
import multiprocessing
import os
import pathlib
import pickle
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from datetime import datetime, timedelta, timezone

from tantara import LastSet, SharedEvent, Waiter
from test_event import LONG, start

TURNS = 20


def answer(ping, pong):
    for _ in range(TURNS):
        assert ping.wait(LONG)
        ping.clear()
        pong.set()


def set_what_comes(queue):
    queue.get(timeout=LONG).set()


def wait_for_ever(event, ready):
    ready.set()
    event.wait()


def until(is_true):
    end = time.monotonic() + LONG
    while not is_true():
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def steps_of_another_thread():
    """Yield a function that tells how far another thread has come.

    Until the end, no thread asks another for the interpreter's lock.
    """
    steps, has_ended = 0, False

    def step():
        nonlocal steps
        while not has_ended:
            steps += 1
            time.sleep(0.001)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(3600)
    thread = start(step)
    try:
        yield lambda: steps
    finally:
        has_ended = True
        sys.setswitchinterval(interval)
        thread.join()


class Shared(unittest.TestCase):
    def setUp(self):
        home = tempfile.TemporaryDirectory()
        self.addCleanup(home.cleanup)
        self.home = home.name


class Children(Shared):
    def test_children_of_every_kind(self):
        for method in ("fork", "spawn", "forkserver"):
            for make in (SharedEvent, lambda: SharedEvent("x", self.home)):
                with self.subTest(method):
                    context = multiprocessing.get_context(method)
                    ping, pong = make(), SharedEvent()
                    child = context.Process(target=answer, args=(ping, pong))
                    child.start()
                    for _ in range(TURNS):
                        ping.set()
                        self.assertTrue(pong.wait(LONG))
                        pong.clear()
                    child.join(LONG)
                    self.assertEqual(child.exitcode, 0)

    def test_it_travels_through_a_queue(self):
        queue, event = multiprocessing.get_context("fork").Queue(), SharedEvent()
        queue.put(event)
        other = queue.get(timeout=LONG)
        other.set()
        self.assertTrue(event.is_set())

    def test_a_subclass_travels_too(self):
        queue, event = multiprocessing.get_context("fork").Queue(), Door("x", self.home)
        queue.put(event)
        self.assertIs(type(queue.get(timeout=LONG)), Door)
        queue.put(Door())
        self.assertIs(type(queue.get(timeout=LONG)), Door)

    def test_a_subclass_that_takes_other_arguments_keeps_what_it_has(self):
        queue = multiprocessing.get_context("fork").Queue()
        for gate in (Gate(3), Gate(4, name="x", dir=self.home)):
            queue.put(gate)
            other = queue.get(timeout=LONG)
            self.assertEqual((type(other), other.level, other.name), (Gate, gate.level, gate.name))
            other.set()
            self.assertTrue(gate.is_set())

    @unittest.skipIf(importlib.util.find_spec("multiprocess") is None, "multiprocess is not installed (pip install multiprocess)")
    def test_children_of_multiprocess(self):
        """multiprocess is a copy of multiprocessing with its own pickler and keys. One program may use both."""
        multiprocess = importlib.import_module("multiprocess")
        for library in (multiprocess, multiprocessing):
            for method in ("fork", "spawn", "forkserver"):
                with self.subTest(library=library.__name__, method=method):
                    context = library.get_context(method)
                    ping, pong, queue = SharedEvent(), SharedEvent(), context.Queue()
                    child = context.Process(target=answer, args=(ping, pong))
                    child.start()
                    for _ in range(TURNS):
                        ping.set()
                        self.assertTrue(pong.wait(LONG))
                        pong.clear()
                    child.join(LONG)
                    self.assertEqual(child.exitcode, 0)
                    child = context.Process(target=set_what_comes, args=(queue,))
                    child.start()
                    queue.put(pong)
                    self.assertTrue(pong.wait(LONG))
                    child.join(LONG)
                    self.assertEqual(child.exitcode, 0)

    def test_a_waiter_that_is_killed_takes_nobody_along(self):
        for method in ("fork", "spawn"):
            context = multiprocessing.get_context(method)
            event, ready = SharedEvent(), SharedEvent()
            victim = context.Process(target=wait_for_ever, args=(event, ready))
            victim.start()
            self.assertTrue(ready.wait(LONG))
            until(event.waiters)
            os.kill(victim.pid, signal.SIGKILL)
            victim.join()
            self.assertEqual(event.waiters(), [])
            self.assertFalse(event.wait(0.01))
            event.set()
            self.assertTrue(event.is_set() and event.wait(0))
            event.clear()

    def test_by_descriptor(self):
        event = SharedEvent()
        script = (
            "import sys, tantara\n"
            "event = tantara.SharedEvent.from_fd(int(sys.argv[1]))\n"
            "assert not event.is_set(); event.set()"
        )
        number = event.fileno()
        subprocess.run([sys.executable, "-c", script, str(number)], pass_fds=[number], check=True, timeout=LONG)
        self.assertTrue(event.wait(LONG))


class Door(SharedEvent):
    pass


class Gate(SharedEvent):
    def __init__(self, level, **place):
        super().__init__(**place)
        self.level = level


class Names(Shared):
    def test_two_by_one_name_are_one(self):
        one, other = SharedEvent("db-ready", self.home), SharedEvent(name="db-ready", dir=pathlib.Path(self.home))
        one.set()
        self.assertTrue(other.is_set())
        self.assertEqual(one.name, "db-ready")
        self.assertEqual(one.path, os.path.join(self.home, "db-ready"))
        self.assertIn("'db-ready'", repr(one).replace('"', "'"))
        copy = pickle.loads(pickle.dumps(one))
        copy.clear()
        self.assertFalse(one.is_set())
        nameless = SharedEvent()
        self.assertIsNone(nameless.name)
        self.assertIsNone(nameless.path)

    def test_by_default_among_the_users_own(self):
        script = "import tantara; event = tantara.SharedEvent('x'); print(event.path); event.remove()"
        environment = {**os.environ, "XDG_RUNTIME_DIR": self.home}
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, check=True, timeout=LONG, capture_output=True, text=True
        )
        self.assertEqual(run.stdout.strip(), os.path.join(self.home, "tantara", "x"))

    def test_who_waits_in_another_pid_namespace_has_no_number(self):
        unshare = ["unshare", "--pid", "--fork", "--kill-child"]
        if not shutil.which("unshare") or subprocess.run([*unshare, "true"], stderr=subprocess.DEVNULL).returncode:
            self.skipTest("unshare(1) cannot make a PID namespace here")
        event = SharedEvent("x", self.home)
        script = "import sys, tantara; tantara.SharedEvent('x', sys.argv[1]).wait()"
        with subprocess.Popen([*unshare, sys.executable, "-c", script, self.home]) as waiting:
            until(event.waiters)
            (waiter,) = event.waiters()
            event.set()
            self.assertEqual(waiting.wait(LONG), 0)
        self.assertEqual((waiter.pid, waiter.tid, waiter.command), (None, None, ""))
        self.assertLess(abs(datetime.now(timezone.utc) - waiter.since), timedelta(hours=1))

    def test_who_waits(self):
        event = SharedEvent("x", self.home)
        before = datetime.now(timezone.utc)
        thread = start(event.wait)
        until(event.waiters)
        (waiter,) = event.waiters()
        self.assertIsInstance(waiter, Waiter)
        self.assertEqual((waiter.pid, waiter.tid), (os.getpid(), thread.native_id))
        self.assertLess(abs(waiter.since - before), timedelta(seconds=LONG))
        self.assertIsNotNone(waiter.since.tzinfo)
        self.assertIn("python", waiter.command)
        event.set()
        thread.join()

    def test_last_set_and_its_note(self):
        event = SharedEvent("x", self.home)
        self.assertIsNone(event.last_set())
        before = datetime.now(timezone.utc) - timedelta(seconds=1)
        event.set(note="disk full")
        last = SharedEvent("x", self.home).last_set()
        self.assertIsInstance(last, LastSet)
        self.assertEqual((last.pid, last.note), (os.getpid(), "disk full"))
        self.assertTrue(before <= last.at <= datetime.now(timezone.utc))
        event.clear()
        self.assertEqual(event.last_set(), last)
        event.set()
        self.assertIsNone(event.last_set().note)
        event.set(note="größe: 5 µs")
        self.assertEqual(event.last_set().note, "größe: 5 µs")
        event.pulse(note="x" * 64)
        self.assertEqual((event.is_set(), event.last_set().note), (False, "x" * 64))
        event.pulse(note=None)
        self.assertIsNone(event.last_set().note)

    def test_what_cannot_be_a_note(self):
        event = SharedEvent()
        for method in (event.set, event.pulse):
            for note in ("a\nb", "\x1b[2J", "é" * 33, "\ud800"):
                with self.assertRaises(ValueError):
                    method(note=note)
            with self.assertRaises(TypeError):
                method(note=7)
            with self.assertRaises(TypeError):
                method("a note is a keyword")
        self.assertIsNone(event.last_set())

    def test_removed(self):
        event, errors = SharedEvent("x", self.home), []

        def wait():
            try:
                event.wait()
            except FileNotFoundError as error:
                errors.append(error)

        thread = start(wait)
        until(event.waiters)
        self.assertTrue(SharedEvent("x", self.home).remove())
        thread.join(LONG)
        self.assertIn("x was removed", str(errors[0]))
        self.assertEqual(errors[0].errno, errno.ENOENT)
        for method in (event.is_set, event.set, event.clear, event.pulse, event.wait, event.last_set):
            with self.assertRaises(FileNotFoundError):
                method()
        self.assertIn("removed", repr(event))
        self.assertFalse(event.remove())
        self.assertFalse(SharedEvent("x", self.home).is_set(), "a new one")

    def test_closed(self):
        with SharedEvent("x", self.home) as event:
            event.set()
        event.close()
        self.assertRegex(repr(event), "closed>$")
        for method in (event.set, event.clear, event.is_set, event.wait, event.wait_async, event.waiters, event.fileno,
                     event.remove, event.__enter__):
            with self.assertRaisesRegex(ValueError, "closed"):
                method()
        self.assertTrue(SharedEvent("x", self.home).is_set())

    def test_initialized_again_or_never(self):
        class Lazy(SharedEvent):
            def __init__(self):
                pass

        event = SharedEvent("x", self.home)
        event.set()
        event.__init__("y", self.home)
        self.assertEqual((event.name, event.is_set()), ("y", False))
        self.assertTrue(SharedEvent("x", self.home).is_set())
        lazy = Lazy()
        self.assertRegex(repr(lazy), "not opened>$")
        for method in (lazy.set, lazy.is_set, lazy.wait, lazy.waiters):
            with self.assertRaisesRegex(ValueError, r"__init__\(\) was not called"):
                method()

    def test_a_copy_is_another_handle_of_the_same_event(self):
        for event in (SharedEvent(), SharedEvent("x", self.home)):
            for other in (copy.copy(event), copy.deepcopy(event)):
                other.set()
                other.close()
                self.assertTrue(event.is_set())
                event.clear()

    def test_closed_while_another_thread_waits(self):
        event, results = SharedEvent("x", self.home), []
        thread = start(lambda: results.append(event.wait(LONG)))
        until(event.waiters)
        event.close()
        SharedEvent("x", self.home).set()
        thread.join()
        self.assertEqual(results, [True])

    def test_other_threads_run_while_an_event_is_opened(self):
        # As if another process had been stopped while it made the event: opening waits for that process for a moment.
        slot = os.path.join(self.home, ".moved-x")
        os.rename(SharedEvent("x", self.home).path, slot)
        with steps_of_another_thread() as steps, open(slot, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            has_run, deadline = False, time.monotonic() + LONG
            while not has_run and time.monotonic() < deadline:
                before = steps()
                SharedEvent("x", self.home)
                has_run = steps() != before
        self.assertTrue(has_run, "opening kept the interpreter's lock")

    def test_descriptors_are_let_go_of(self):
        before = len(os.listdir("/proc/self/fd"))
        events = [SharedEvent() for _ in range(50)]
        self.assertGreater(len(os.listdir("/proc/self/fd")), before)
        for event in events:
            event.close()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_impossible_names(self):
        for name in ("", "../x", "a/b", ".hidden", "-x", "x\n", "x" * 10_000, "x\0y", "\ud800"):
            with self.assertRaises((ValueError, UnicodeEncodeError), msg=name):
                SharedEvent(name, self.home)
        for name in (5, b"x", object()):
            with self.assertRaises(TypeError):
                SharedEvent(name, self.home)
        with self.assertRaises(TypeError):
            SharedEvent("x", 5)
        with self.assertRaises(ValueError):
            SharedEvent(dir=self.home)
        self.assertEqual(os.listdir(self.home), [])

    def test_impossible_places(self):
        with self.assertRaises(OSError):
            SharedEvent("x", os.path.join(self.home, "no", "such", "place"))
        path = os.path.join(self.home, "x")
        pathlib.Path(path).write_bytes(os.urandom(4096))
        with self.assertRaisesRegex(OSError, "is not an event"):
            SharedEvent("x", self.home)
        os.mkdir(os.path.join(self.home, "folder"))
        with self.assertRaises(OSError):
            SharedEvent("folder", self.home)
        for descriptor in (-1, 10**6):
            with self.assertRaises(OSError) as caught:
                SharedEvent.from_fd(descriptor)
            self.assertEqual(caught.exception.errno, errno.EBADF)
        with open(path) as file, self.assertRaises(OSError):
            SharedEvent.from_fd(os.dup(file.fileno()))

    @unittest.skipUnless(os.getuid() == 0, "only root can act as two users")
    def test_what_the_system_refuses(self):
        event = SharedEvent("x", self.home)
        os.chmod(self.home, 0o1777)
        os.chmod(event.path, 0o600)
        closed = os.path.join(self.home, "closed")
        os.mkdir(closed, 0o700)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            for name, home in ("x", self.home), ("x", closed), ("y", "/proc"):
                try:
                    SharedEvent(name, home)
                    told = "no error"
                except OSError as error:
                    told = f"{type(error).__name__} {error.errno} {error}"
                os.write(writer, told.encode() + b"\n")
            os._exit(0)
        os.close(writer)
        with open(reader) as told:
            less, denied, no_files = told
        os.waitpid(child, 0)
        for line in less, denied:
            self.assertTrue(line.startswith(f"PermissionError {errno.EACCES}"), line)
        self.assertIn("belongs to user 0", less)
        self.assertNotIn("no error", no_files)

    @unittest.skipUnless(os.getuid() == 0, "only root can act as two users")
    def test_who_may_only_wait(self):
        event = SharedEvent("x", self.home)
        os.chmod(self.home, 0o755)
        os.chmod(event.path, 0o644)
        child = os.fork()
        if child == 0:
            os.setuid(65534)
            try:
                other = SharedEvent("x", self.home)
                assert other.wait(LONG)
                for method in (other.set, other.clear, other.remove):
                    try:
                        method()
                        os._exit(1)
                    except PermissionError:
                        pass
                os._exit(0)
            finally:
                os._exit(2)
        time.sleep(0.05)
        event.set()
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertEqual(stat.S_IMODE(os.stat(event.path).st_mode), 0o644)


if __name__ == "__main__":
    unittest.main()

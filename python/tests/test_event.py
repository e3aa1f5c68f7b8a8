"""Event as a replacement for threading.Event: everything that a program could notice."""

import contextlib
import copy
import gc
import os
import pickle
import re
import signal
import sys
import threading
import time
import unittest
import warnings
import weakref

import tantara
from tantara import AutoResetEvent, Event, SharedEvent

try:
    SharedEvent()
    SHARED = [SharedEvent]
except NotImplementedError:
    SHARED = []
KINDS = [Event, AutoResetEvent, *SHARED]
# The kinds of which set() releases all who wait, and the one of them that most processes share.
LEVELS = [Event, *SHARED]
Widest = LEVELS[-1]
LONG = 60
needs_shared = unittest.skipUnless(SHARED, "there is no SharedEvent on this platform")
needs_forks = unittest.skipUnless(hasattr(os, "fork"), "there are no forks on this platform")


def until_asleep(thread, seconds=LONG):
    """Return once the thread sleeps in the kernel, outside of Python."""
    if not os.path.exists("/proc/self/task"):
        time.sleep(0.2)
        return
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with open(f"/proc/self/task/{thread.native_id}/syscall") as file:
            if file.read().split()[0] in ("202", "449"):  # futex, futex_waitv, on x86-64
                return
        time.sleep(0.001)
    raise AssertionError("it does not sleep")


def start(work, *arguments):
    thread = threading.Thread(target=work, args=arguments, daemon=True)
    thread.start()
    return thread


class TheSameAsThreadings(unittest.TestCase):
    def test_verbs(self):
        for kind in (threading.Event, Event):
            event = kind()
            self.assertIs(event.is_set(), False)
            self.assertIs(event.wait(0), False)
            self.assertIsNone(event.set())
            self.assertIs(event.is_set(), True)
            self.assertIs(event.wait(), True)
            self.assertIs(event.wait(timeout=0), True)
            self.assertIsNone(event.clear())
            self.assertIs(event.is_set(), False)

    def test_its_public_names_are_there(self):
        names = {name for name in dir(threading.Event) if not name.startswith("_")}
        self.assertLessEqual(names, set(dir(Event)))

    def test_repr(self):
        # The form of CPython's own repr since 3.11.
        for kind in (threading.Event, Event) if sys.version_info >= (3, 11) else (Event,):
            event = kind()
            form = rf"<{kind.__module__}\.Event at {id(event):#x}: "
            self.assertRegex(repr(event), form + "unset>$")
            event.set()
            self.assertRegex(repr(event), form + "set>$")

    def test_the_old_name_is_deprecated(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            self.assertIs(Event().isSet(), False)
        self.assertEqual([warning.category for warning in caught], [DeprecationWarning])
        self.assertEqual(caught[0].filename, __file__)

    def test_subclasses(self):
        for kind in (threading.Event, Event):
            class Door(kind):
                def __init__(self, name, *, level=0):
                    super().__init__()
                    self.name, self.level = name, level

                def set(self):
                    self.opened = True
                    super().set()

            door = Door("front", level=2)
            door.set()
            self.assertTrue(door.opened and door.is_set() and door.wait())
            self.assertEqual((door.name, door.level), ("front", 2))
            self.assertIsInstance(door, kind)
            if kind is Event:
                self.assertIn("Door at", repr(door))

    def test_arguments_are_refused(self):
        for kind in (threading.Event, Event, AutoResetEvent):
            class Plain(kind):
                pass

            for make in (kind, Plain):
                with self.assertRaises(TypeError):
                    make(1)
                with self.assertRaises(TypeError):
                    make(name="x")

    def test_attributes_weak_references_and_equality(self):
        for kind in (threading.Event, *KINDS):
            event = kind()
            event.note = "mine"
            self.assertEqual(event.note, "mine")
            self.assertEqual({event: 1}[event], 1)
            self.assertNotEqual(event, kind())
            reference = weakref.ref(event)
            self.assertIs(reference(), event)
            event.itself = event
            del event
            gc.collect()
            self.assertIsNone(reference(), kind)

    def test_attributes_outlive_another_init(self):
        for kind in (Event, AutoResetEvent):
            class Door(kind):
                def __init__(self, name):
                    self.name = name
                    super().__init__()

            self.assertEqual(Door("north").name, "north")
            event = kind()
            attributes = event.__dict__
            event.__init__()
            self.assertIs(event.__dict__, attributes)
            event.__init__()
            event.name = "south"
            event.__init__()
            self.assertEqual((event.name, attributes), ("south", {"name": "south"}))
            event = kind()
            event.name = "west"
            self.assertEqual(event.__dict__, {"name": "west"})

    @unittest.skipIf(sys.version_info[:2] == (3, 11), "CPython 3.11 makes a dictionary with each object")
    def test_a_new_event_has_no_dictionary(self):
        for kind in (Event, AutoResetEvent):
            self.assertEqual([each for each in gc.get_referents(kind()) if isinstance(each, dict)], [])

    def test_neither_can_be_copied(self):
        for kind in (threading.Event, Event, AutoResetEvent):
            with self.assertRaises(TypeError):
                pickle.dumps(kind())
            with self.assertRaises(TypeError):
                copy.deepcopy(kind())

    def test_the_error_of_a_copy_says_what_to_do_instead(self):
        class Door(Event):
            pass

        for kind in (Event, AutoResetEvent, Door):
            for act in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaisesRegex(TypeError, f"'.*{kind.__name__}'.*reference.*SharedEvent"):
                    act(kind())

    def test_a_subclass_may_say_how_it_is_copied(self):
        for kind in (Event, AutoResetEvent):
            class Door(kind):
                def __init__(self, name):
                    super().__init__()
                    self.name = name

                def __getstate__(self):
                    return {"name": self.name}

            door = Door("front")
            door.set()
            other = copy.copy(door)
            self.assertEqual((other.name, other.is_set()), ("front", False))

    def test_initialized_again_they_begin_anew(self):
        for kind in (threading.Event, Event, AutoResetEvent):
            event = kind()
            event.set()
            event.__init__()
            self.assertFalse(event.is_set())
            with self.assertRaises(TypeError):
                event.__init__(1)
        event, results = Event(), []
        thread = start(lambda: results.append(event.wait(LONG)))
        until_asleep(thread)
        event.__init__()
        event.set()
        thread.join()
        self.assertEqual(results, [True], "who waited goes on waiting")

    def test_they_are_true(self):
        for kind in (threading.Event, *KINDS):
            self.assertTrue(kind())

    def test_instead_of_threadings(self):
        """The threading module works with it."""
        script = (
            "import threading, tantara; threading.Event = tantara.Event\n"
            "done = []; thread = threading.Thread(target=done.append, args=(1,)); thread.start(); thread.join()\n"
            "timer = threading.Timer(0.01, done.append, (2,)); timer.start(); timer.join()\n"
            "assert done == [1, 2]\n"
        )
        if hasattr(os, "fork"):
            script += (
                "import os; child = os.fork()\n"
                "if child == 0: threading.Thread(target=os._exit, args=(7,)).start(); threading.Event().wait(60)\n"
                "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
            )
        import subprocess
        subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=LONG)


class Timeouts(unittest.TestCase):
    def test_whatever_threading_takes_is_taken(self):
        events = [threading.Event(), *(kind() for kind in KINDS)]
        for timeout in (0, 0.0, -0.0, -1, -1e300, -(10**100), float("-inf"), False, 1e-9, 0.001, 5e-324):
            for event in events:
                self.assertIs(event.wait(timeout), False, (event, timeout))

    def test_no_limit(self):
        for timeout in (None, threading.TIMEOUT_MAX, 10**9, True):
            for kind in KINDS:
                event = kind()
                timer = threading.Timer(0.02, event.set)
                timer.start()
                self.assertIs(event.wait(timeout), True)
                timer.join()

    def test_whatever_threading_refuses_is_refused(self):
        events = [threading.Event(), *(kind() for kind in KINDS)]
        for timeout, error in [
            ("1", TypeError), (b"1", TypeError), ([], TypeError), (1j, TypeError), (object(), TypeError),
            (10**100, OverflowError), (1e300, OverflowError), (float("inf"), OverflowError),
            (threading.TIMEOUT_MAX * 2, OverflowError),
        ]:
            for event in events:
                with self.assertRaises(error, msg=(event, timeout)):
                    event.wait(timeout)

    def test_nan_is_refused(self):
        for kind in KINDS:
            with self.assertRaisesRegex(ValueError, "NaN"):
                kind().wait(float("nan"))

    def test_what_is_an_integer_is_taken(self):
        class Two:
            def __index__(self):
                return 2

        event = Event()
        threading.Timer(0.02, event.set).start()
        self.assertIs(event.wait(Two()), True)

    def test_what_an_index_raises_is_raised(self):
        class Broken:
            def __index__(self):
                raise KeyError("broken")

        class Odd:
            def __index__(self):
                return "1"

        for kind in KINDS:
            with self.assertRaises(KeyError):
                kind().wait(Broken())
            with self.assertRaises(TypeError):
                kind().wait(Odd())

    def test_it_does_not_end_early(self):
        for kind in KINDS:
            for timeout in (0.001, 0.02):
                began = time.monotonic()
                self.assertIs(kind().wait(timeout), False)
                self.assertGreaterEqual(time.monotonic() - began, timeout)


class Threads(unittest.TestCase):
    def test_all_are_released_by_a_pulse(self):
        for kind in LEVELS:
            event, results = kind(), []
            threads = [start(lambda: results.append(event.wait(LONG))) for _ in range(20)]
            for thread in threads:
                until_asleep(thread)
            event.set()
            event.clear()
            for thread in threads:
                thread.join()
            self.assertEqual(results, [True] * 20)

    def test_one_at_a_time(self):
        event, released = AutoResetEvent(), []
        threads = []
        for number in range(5):
            threads.append(start(lambda number=number: released.append((event.wait(LONG), number))))
            until_asleep(threads[-1])
        for number, thread in enumerate(threads):
            event.set()
            thread.join()
        self.assertEqual(released, [(True, number) for number in range(5)])
        self.assertFalse(event.wait(0))
        event.set()
        event.set()
        self.assertTrue(event.is_set() and event.wait(0) and not event.wait(0))

    def test_others_run_while_one_waits(self):
        for kind in KINDS:
            event, ran = kind(), []
            thread = start(lambda: (time.sleep(0.01), ran.append(1), event.set()))
            self.assertTrue(event.wait(LONG) and ran == [1])
            thread.join()

    def test_how_many_wait(self):
        for kind in (Event, AutoResetEvent):
            event = kind()
            self.assertEqual(event.waiting, 0)
            threads = [start(event.wait) for _ in range(3)]
            threads.append(start(tantara.wait_any, [Event(), event]))
            waits = [event.wait_async(), tantara.wait_all_async([event])]
            end = time.monotonic() + LONG
            while event.waiting < 6:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.001)
            self.assertEqual(event.waiting, 6)
            for wait in waits:
                wait.close()
            del wait, waits
            self.assertEqual(event.waiting, 4)
            for thread in threads:
                event.set()
                if kind is AutoResetEvent:
                    while event.is_set():
                        time.sleep(0.001)
            for thread in threads:
                thread.join()
            self.assertEqual(event.waiting, 0)
            with self.assertRaises(AttributeError):
                event.waiting = 1

    def test_sixteen_threads_set_at_once(self):
        event, auto_reset, stop, got = Event(), AutoResetEvent(), Event(), []

        def work(number):
            while not stop.is_set():
                event.set()
                event.clear()
                auto_reset.set()
                if auto_reset.wait(0):
                    got.append(number)

        def wait():
            for _ in range(200):
                self.assertTrue(event.wait(LONG))

        setters = [start(work, number) for number in range(16)]
        waiters = [start(wait) for _ in range(4)]
        for waiter in waiters:
            waiter.join(LONG)
            self.assertFalse(waiter.is_alive())
        stop.set()
        for setter in setters:
            setter.join()
        self.assertTrue(got)

    def test_reference_counts_stay_flat(self):
        event = Event()
        event.set()
        timeout = 12_345.678
        shared = Widest()
        shared.set()
        for act in (event.wait, lambda: event.wait(timeout), lambda: tantara.wait_any([event]), lambda: shared.wait(timeout)):
            def count():
                gc.collect()
                return [sys.getrefcount(object) for object in (event, shared, timeout, None, True)]

            act()
            before = count()
            for _ in range(1_000_000 if act is event.wait else 100_000):
                act()
            after = count()
            # The interpreter itself changes the counts of None and True.
            self.assertTrue(all(abs(new - old) < 100 for old, new in zip(before, after)), (before, after))


class Memory(unittest.TestCase):
    def test_rejected_calls_leave_nothing(self):
        """Even if no other method is called afterwards."""
        class Broken:
            def __index__(self):
                raise KeyError("broken")

        calls = [lambda event: event.wait("x"), lambda event: event.wait(float("nan")), lambda event: event.wait(1e300),
                 lambda event: event.wait(Broken()), lambda event: event.wait(1, 2), lambda event: event.wait(nonsense=1)]
        for kind in KINDS:
            event = kind()
            for call in calls:
                def reject():
                    try:
                        call(event)
                    except Exception:
                        pass

                def blocks():
                    for _ in range(2_000):
                        reject()
                    gc.collect()
                    return sys.getallocatedblocks()

                blocks()
                before = blocks()
                self.assertLess(blocks() - before, 500, (kind, call))

    def test_a_subclass_that_keeps_a_wait_of_its_own_is_collected(self):
        for kind in KINDS:
            class Door(kind):
                def __init__(self, wait):
                    super().__init__()
                    self.wait_kept = wait(self)

            for wait in (lambda door: door.wait_async(), lambda door: tantara.wait_any_async([door, Event(), door]),
                         lambda door: tantara.wait_all_async([door])):
                with warnings.catch_warnings():
                    # The warning that a coroutine was never awaited.
                    warnings.simplefilter("ignore")
                    door = Door(wait)
                    gc.collect()
                    self.assertFalse(door.is_set())
                    gone = weakref.ref(door)
                    del door
                    gc.collect()
                    self.assertIsNone(gone(), kind)

    def test_a_subclass_that_keeps_a_task_of_its_own_is_collected(self):
        import asyncio

        async def main():
            for kind in KINDS:
                class Door(kind):
                    pass

                door = Door()
                door.task = asyncio.create_task(door.wait_async())
                door.task._log_destroy_pending = False
                await asyncio.sleep(0.001)
                gone = weakref.ref(door)
                del door
                gc.collect()
                self.assertIsNone(gone(), kind)

        asyncio.run(main())


class Ends(unittest.TestCase):
    @unittest.skipUnless(sys.platform == "linux", "the destructor is set by glibc's functions")
    def test_set_by_a_destructor_at_the_end_of_a_thread_that_had_a_loop(self):
        script = (
            "import asyncio, ctypes, threading, tantara\n"
            "event, gate = tantara.Event(), tantara.AutoResetEvent()\n"
            "libc, key = ctypes.CDLL(None), ctypes.c_uint()\n"
            "@ctypes.CFUNCTYPE(None, ctypes.c_void_p)\n"
            "def at_end(_):\n"
            "    event.set()\n"
            "    gate.set()\n"
            "libc.pthread_key_create(ctypes.byref(key), at_end)\n"
            "def work():\n"
            "    libc.pthread_setspecific(key, ctypes.c_void_p(1))\n"
            "    asyncio.run(tantara.Event().wait_async(0.001))\n"
            "thread = threading.Thread(target=work)\n"
            "thread.start(); thread.join()\n"
            "assert event.wait(60) and gate.wait(60)\n"
        )
        import subprocess
        subprocess.run([sys.executable, "-c", script], check=True, timeout=LONG * 2)


@needs_forks
class Forks(unittest.TestCase):
    def in_child(self, act):
        child = os.fork()
        if child == 0:
            try:
                signal.alarm(LONG)
                act()
                os._exit(0)
            finally:
                os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)

    def test_a_child_has_its_own_copy_set_as_it_was(self):
        for kind in (Event, AutoResetEvent):
            event = kind()
            event.set()

            def child():
                assert event.is_set() and event.wait(0)
                event.clear()
                assert not event.is_set() and not event.wait(0.01)
                start(lambda: (time.sleep(0.01), event.set()))
                assert event.wait(LONG)
                event.clear()
                grandchild = os.fork()
                if grandchild == 0:
                    assert not event.is_set()
                    event.set()
                    os._exit(0 if event.wait(0) else 1)
                assert os.waitpid(grandchild, 0)[1] == 0 and not event.is_set()

            self.in_child(child)
            self.assertTrue(event.is_set())

    def test_nothing_is_given_to_threads_that_the_child_does_not_have(self):
        auto_reset = AutoResetEvent()
        thread = start(auto_reset.wait)
        until_asleep(thread)

        def child():
            auto_reset.set()
            assert auto_reset.wait(LONG)

        self.in_child(child)
        auto_reset.set()
        thread.join()

    def test_whatever_threads_do_at_the_moment_of_a_fork(self):
        event, auto_reset, stop = Event(), AutoResetEvent(), Event()

        def wait():
            while not stop.is_set():
                auto_reset.wait(1e-6)
                tantara.wait_any([event, auto_reset], 1e-6)

        def child():
            event.set()
            auto_reset.set()
            assert event.wait(LONG) and auto_reset.wait(LONG)

        threads = [start(wait) for _ in range(4)]
        for _ in range(50):
            self.in_child(child)
        stop.set()
        for thread in threads:
            thread.join()


class Documentation(unittest.TestCase):
    def test_help_shows_everything(self):
        import pydoc
        text = pydoc.plain(pydoc.render_doc(tantara))
        for name in tantara.__all__:
            self.assertIn(name, text)
            self.assertEqual(getattr(tantara, name).__module__, "tantara")
            self.assertTrue(getattr(tantara, name).__doc__)
        self.assertIn("wait(self, timeout=None)", re.sub(r", /", "", pydoc.plain(pydoc.render_doc(Event))))
        for kind in KINDS:
            for method in vars(kind):
                if not method.startswith("_"):
                    self.assertTrue(getattr(kind, method).__doc__, (kind, method))

    def test_examples(self):
        import doctest
        for thing in (*KINDS, tantara.wait_any, tantara.wait_all):
            examples = doctest.DocTestFinder().find(thing, thing.__name__, globs={})
            self.assertTrue(any(example.examples for example in examples), thing)
            for example in examples:
                self.assertEqual(doctest.DocTestRunner().run(example).failed, 0)


if __name__ == "__main__":
    unittest.main()

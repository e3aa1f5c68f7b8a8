"""CPython's own tests of its events, run against tantara's."""

import importlib
import multiprocessing
import unittest

import tantara

try:
    lock_tests = importlib.import_module("test.lock_tests")
    multiprocessing_tests = importlib.import_module("test._test_multiprocessing")
except ImportError:
    # Debian packages them separately, in libpython3-testsuite.
    lock_tests = multiprocessing_tests = None


@unittest.skipIf(lock_tests is None, "this Python has come without its own tests (Debian: libpython3.11-testsuite)")
class OfThreading(lock_tests.EventTests if lock_tests else unittest.TestCase):
    eventtype = staticmethod(tantara.Event)

    @unittest.skip("it takes the lock of the condition variable within, event._cond; there is none")
    def test_at_fork_reinit(self):
        pass

    if hasattr(lock_tests and lock_tests.EventTests, "test_reset_internal_locks"):
        # The former name of that test.
        test_reset_internal_locks = test_at_fork_reinit
        del test_at_fork_reinit


class Event(tantara.SharedEvent):
    """A class with the name that the suite expects in the repr."""


@unittest.skipIf(multiprocessing_tests is None, "as above")
class OfMultiprocessing:
    class Base(multiprocessing_tests._TestEvent if multiprocessing_tests else unittest.TestCase):
        TYPE = "processes"
        Event = staticmethod(Event)

    class TestFork(Base):
        Process = multiprocessing.get_context("fork").Process

    class TestSpawn(Base):
        Process = multiprocessing.get_context("spawn").Process

    class TestForkserver(Base):
        Process = multiprocessing.get_context("forkserver").Process


if multiprocessing_tests:
    TestFork, TestSpawn, TestForkserver = OfMultiprocessing.TestFork, OfMultiprocessing.TestSpawn, OfMultiprocessing.TestForkserver
    for suite in (TestFork, TestSpawn, TestForkserver):
        suite.__qualname__ = suite.__name__

if __name__ == "__main__":
    unittest.main()

"""wait_any and wait_all."""

import threading
import unittest

from tantara import (
    AutoResetEvent,
    Event,
    wait_all,
    wait_all_async,
    wait_any,
    wait_any_async,
)
from test_event import LONG, Widest, needs_shared, start, until_asleep


class Many(unittest.TestCase):
    def test_any(self):
        events = [Event(), AutoResetEvent(), Widest()]
        for index, event in enumerate(events):
            threading.Timer(0.02, event.set).start()
            self.assertEqual(wait_any(events), index)
            event.clear()
        self.assertIsNone(wait_any(events, 0.01))
        self.assertIsNone(wait_any(iter(events), timeout=0))
        events[2].set()
        events[0].set()
        self.assertEqual(wait_any(events), 0, "the lowest")
        self.assertIsNone(wait_any([], 0.01))

    def test_all_latches(self):
        events = [Event(), AutoResetEvent(), Widest()]
        results = []
        thread = start(lambda: results.append(wait_all(events)))
        until_asleep(thread)
        for event in events:
            event.set()
            if event is not events[1]:
                event.clear()
        thread.join(LONG)
        self.assertEqual(results, [True])
        self.assertFalse(events[1].is_set(), "used up")
        self.assertIs(wait_all(events, 0.01), False)
        self.assertIs(wait_all([]), True)

    def test_what_is_not_used_up_passes_on(self):
        auto_reset, never = AutoResetEvent(), Event()
        auto_reset.set()
        self.assertIs(wait_all([auto_reset, never], 0.01), False)
        self.assertTrue(auto_reset.is_set())

    def test_a_thousand(self):
        events = [Widest() if number % 10 == 0 else Event() for number in range(1_000)]
        threading.Timer(0.02, events[990].set).start()
        self.assertEqual(wait_any(events), 990)

    def test_bad_input(self):
        for wait in (wait_any, wait_all):
            for events in (None, 5, Event()):
                with self.assertRaises(TypeError):
                    wait(events)
            with self.assertRaisesRegex(TypeError, r"events\[1\] must be an Event.* not Event"):
                wait([Event(), threading.Event()])
            with self.assertRaises(TypeError):
                wait([Event()], "1")
            with self.assertRaises(ValueError):
                wait([Event()], float("nan"))
            with self.assertRaises(OverflowError):
                wait([Event()], 1e300)

            def broken():
                yield Event()
                raise KeyError("broken")

            with self.assertRaises(KeyError):
                wait(broken())

    @needs_shared
    def test_a_closed_event(self):
        for wait in (wait_any, wait_all):
            closed = Widest()
            closed.close()
            with self.assertRaises(ValueError):
                wait([Event(), closed])

    @needs_shared
    def test_the_timeout_is_converted_before_a_wait_begins(self):
        class Closing:
            def __index__(self):
                event.close()
                return 0

        for wait in (wait_any, wait_all, wait_any_async, wait_all_async):
            event = Widest()
            with self.assertRaisesRegex(ValueError, "closed"):
                wait([event], Closing())


if __name__ == "__main__":
    unittest.main()

"""Platforms without SharedEvent, and loops that watch no descriptors, such as asyncio's usual one on Windows."""

import asyncio
import gc
import threading
import time
import unittest

from tantara import AutoResetEvent, Event, SharedEvent, wait_any_async
from test_event import LONG, SHARED, start


class Blind(asyncio.SelectorEventLoop):
    """A loop that watches no descriptors for programs."""

    def add_reader(self, *_):
        raise NotImplementedError


def run(coroutine):
    loop = Blind()
    try:
        return loop.run_until_complete(asyncio.wait_for(coroutine, LONG))
    finally:
        loop.close()


def watchers():
    gc.collect()
    return [thread for thread in threading.enumerate() if thread.name == "tantara"]


class WithoutDescriptors(unittest.TestCase):
    def test_set_by_a_thread_and_by_the_loop(self):
        async def main():
            event, gate = Event(), AutoResetEvent()
            for _ in range(100):
                waits = asyncio.gather(event.wait_async(), event.wait_async(), wait_any_async([Event(), gate]))
                await asyncio.sleep(0)
                thread = start(lambda: (event.set(), event.clear(), gate.set()))
                self.assertEqual(await waits, [True, True, 1])
                thread.join()
            asyncio.get_running_loop().call_soon(event.set)
            self.assertIs(await event.wait_async(), True)
            event.clear()
            self.assertIs(await event.wait_async(0.01), False)
            task = asyncio.create_task(gate.wait_async())
            await asyncio.sleep(0)
            gate.set()
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
            self.assertIs(await gate.wait_async(), True)

        run(main())

    def test_each_loop_has_one_thread_which_ends_with_it(self):
        before = len(watchers())

        async def main():
            event = Event()
            waits = asyncio.gather(*(event.wait_async() for _ in range(10)))
            await asyncio.sleep(0)
            start(event.set)
            await waits
            return len(watchers())

        for _ in range(5):
            self.assertEqual(run(main()), before + 1)
            until = time.monotonic() + LONG
            while len(watchers()) > before and time.monotonic() < until:
                time.sleep(0.001)
            self.assertEqual(len(watchers()), before)

    def test_a_set_after_the_loop_was_closed(self):
        event, waits = Event(), []

        async def main():
            waits.append(asyncio.ensure_future(event.wait_async()))
            await asyncio.sleep(0)

        loop = Blind()
        loop.run_until_complete(main())
        loop.close()
        waits[0]._log_destroy_pending = False
        start(event.set).join()
        self.assertTrue(event.is_set())
        until = time.monotonic() + LONG
        while watchers() and time.monotonic() < until:
            time.sleep(0.001)
        self.assertEqual(watchers(), [])


@unittest.skipIf(SHARED, "there is a SharedEvent on this platform")
class WithoutSharedEvents(unittest.TestCase):
    def test_the_class_says_what_is_missing(self):
        class Door(SharedEvent):
            pass

        for make in (SharedEvent, Door, lambda: SharedEvent("x"), lambda: SharedEvent("x", "/tmp"),
                     lambda: SharedEvent.from_fd(0)):
            with self.assertRaisesRegex(NotImplementedError, "^SharedEvent needs Linux: .*ClusterEvent"):
                make()
        self.assertNotIsInstance(Event(), SharedEvent)

    def test_an_object_that_was_not_opened(self):
        event = SharedEvent.__new__(SharedEvent)
        self.assertIn("not opened", repr(event))
        with self.assertRaisesRegex(ValueError, "not opened"):
            event.wait()


if __name__ == "__main__":
    unittest.main()

"""Waits in trio, and in anyio on both of its backends."""

import asyncio
import gc
import importlib.util
import tempfile
import threading
import time
import unittest
import weakref

from tantara import AutoResetEvent, Event, wait_all_async, wait_any_async
from test_event import KINDS, LEVELS, LONG, Widest, needs_shared, start

trio = importlib.import_module("trio") if importlib.util.find_spec("trio") else None
anyio = importlib.import_module("anyio") if importlib.util.find_spec("anyio") else None


async def until(is_true):
    while not is_true():
        await trio.sleep(0.001)


@unittest.skipIf(trio is None, "trio is not installed (pip install trio)")
class Trio(unittest.TestCase):
    def run_in_trio(self, main):
        async def limited():
            with trio.fail_after(LONG):
                return await main()

        return trio.run(limited)

    def test_set_by_the_run_by_a_thread_and_before(self):
        async def main():
            for kind in KINDS:
                event, results = kind(), []

                async def wait():
                    results.append(await event.wait_async())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.sleep(0.01)
                    self.assertEqual(results, [])
                    event.set()
                event.clear()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await trio.sleep(0.01)
                    await trio.to_thread.run_sync(event.set)
                event.set()
                await wait()
                self.assertEqual(results, [True] * 3, kind)

        self.run_in_trio(main)

    def test_a_pulse_counts_from_the_call(self):
        async def main():
            for kind in LEVELS:
                event = kind()
                wait = event.wait_async()
                event.set()
                event.clear()
                self.assertIs(await wait, True)

        self.run_in_trio(main)

    def test_a_wait_is_a_task(self):
        async def main():
            for kind in KINDS:
                for is_set in (False, True):
                    event = kind()
                    if is_set:
                        event.set()
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(event.wait_async)
                        await trio.sleep(0.01)
                        event.set()

        self.run_in_trio(main)

    def test_timeouts(self):
        async def main():
            for kind in KINDS:
                event = kind()
                for timeout in (0, -1, 0.01):
                    self.assertIs(await event.wait_async(timeout), False)
                    self.assertIsNone(await wait_any_async([event], timeout))
                    self.assertIs(await wait_all_async([event, event], timeout), False)
                with trio.move_on_after(0.01) as scope:
                    await event.wait_async()
                self.assertTrue(scope.cancelled_caught)
                event.set()
                self.assertIs(await event.wait_async(0), True)

        self.run_in_trio(main)

    def test_many(self):
        async def main():
            events = [Event(), AutoResetEvent(), Widest()]
            for index, event in enumerate(events):
                threading.Timer(0.01, event.set).start()
                self.assertEqual(await wait_any_async(events), index)
                event.clear()
            for event in events:
                threading.Timer(0.01, event.set).start()
            self.assertIs(await wait_all_async(events), True)

        self.run_in_trio(main)

    def test_a_cancelled_wait_takes_nothing_along(self):
        """Whether it was released before, or another thread releases it at the same time."""

        async def main():
            for by_thread in (False, True):
                gate = AutoResetEvent()
                with trio.CancelScope() as scope:
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(gate.wait_async)
                        await until(lambda: gate.waiting)
                        if by_thread:
                            thread = start(gate.set)
                            while thread.is_alive():
                                time.sleep(0.001)
                            scope.cancel()
                        else:
                            scope.cancel()
                            gate.set()
                self.assertEqual(gate.waiting, 0)
                self.assertIs(await wait_any_async([gate], LONG), 0, "it has passed on")
                with trio.CancelScope() as scope:
                    scope.cancel()
                    gate.set()
                    await gate.wait_async()
                self.assertTrue(scope.cancelled_caught and gate.is_set())

        self.run_in_trio(main)

    def test_under_load(self):
        """Threads set while tasks begin to wait, time out and are cancelled; every release is consumed once."""
        gate, used, count = AutoResetEvent(), [], 300

        async def client():
            while len(used) < count:
                with trio.move_on_after(0.002):
                    if await gate.wait_async(0.003):
                        used.append(1)

        def give():
            for number in range(count):
                while len(used) < number or gate.is_set():
                    time.sleep(0.0001)
                gate.set()

        async def main():
            async with trio.open_nursery() as nursery:
                thread = start(give)
                for _ in range(20):
                    nursery.start_soon(client)
            thread.join()

        self.run_in_trio(main)
        self.assertEqual((len(used), gate.is_set()), (count, False))

    @needs_shared
    def test_removed_while_awaited(self):
        async def main():
            with tempfile.TemporaryDirectory() as home:
                event = Widest("x", home)

                async def wait():
                    with self.assertRaises(FileNotFoundError):
                        await event.wait_async()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    await until(event.waiters)
                    event.remove()

        self.run_in_trio(main)

    def test_runs_one_after_another_and_beside_asyncio(self):
        event = Event()

        async def in_trio():
            self.assertIs(await event.wait_async(0.001), False)
            threading.Timer(0.01, event.set).start()
            self.assertIs(await event.wait_async(), True)
            event.clear()

        async def in_asyncio():
            await in_trio()

        for _ in range(3):
            self.run_in_trio(in_trio)
            asyncio.run(in_asyncio())
        thread = start(lambda: asyncio.run(in_asyncio()))
        self.run_in_trio(in_trio)
        event.set()
        thread.join(LONG)
        self.assertFalse(thread.is_alive())

    def test_as_a_guest_of_asyncio(self):
        """Both run on one thread, and each completes its own waits."""
        event, results = Event(), []

        async def guest():
            results.append(await event.wait_async())

        async def host():
            done, loop = asyncio.Event(), asyncio.get_running_loop()
            trio.lowlevel.start_guest_run(
                guest,
                run_sync_soon_threadsafe=loop.call_soon_threadsafe,
                done_callback=lambda _: done.set(),
            )
            waits = asyncio.ensure_future(event.wait_async())
            while event.waiting < 2:
                await asyncio.sleep(0.001)
            event.set()
            results.append(await waits)
            await done.wait()

        asyncio.run(asyncio.wait_for(host(), LONG))
        self.assertEqual(results, [True, True])

    def test_set_while_the_run_goes_to_sleep(self):
        """Outside of its tasks, as signal handlers and finalizers may be called."""
        class Late(trio.abc.Instrument):
            act = None

            def before_io_wait(self, timeout):
                if self.act is not None and timeout > 0:
                    act, self.act = self.act, None
                    act()

        async def main():
            for arguments in ((), (LONG * 10,)):
                event = Event()
                wait = event.wait_async(*arguments)
                late.act = event.set
                began = trio.current_time()
                self.assertIs(await wait, True)
                self.assertLess(trio.current_time() - began, LONG / 2, "woken by the deadline of the test")

        async def limited():
            with trio.move_on_after(LONG):
                await main()
                return True

        late = Late()
        self.assertTrue(trio.run(limited, instruments=[late]))

    def test_a_set_event_is_awaited_as_each_library_expects(self):
        """In trio each await is a checkpoint; in asyncio it ends at once, also if trio was imported."""
        import trio.testing

        async def in_trio():
            for arguments in ((), (LONG,)):
                with trio.testing.assert_checkpoints():
                    self.assertIs(await event.wait_async(*arguments), True)

        async def in_asyncio():
            for arguments in ((), (LONG,)):
                wait = event.wait_async(*arguments)
                with self.assertRaises(StopIteration) as stop:
                    wait.send(None)
                self.assertIs(stop.exception.value, True)
                self.assertIs(await event.wait_async(*arguments), True)
            return type(event.wait_async())

        event = Event()
        event.set()
        trio.run(in_trio)
        self.assertEqual(asyncio.run(in_asyncio()).__name__, "Released")
        trio.run(in_trio)
        box = [event.wait_async()]

        async def begun_before():
            with trio.testing.assert_checkpoints():
                self.assertIs(await box.pop(), True)

        trio.run(begun_before)

    def test_a_live_event_is_not_taken_for_garbage(self):
        class Own(Event):
            def __del__(self):
                finalized.append(self)

        finalized = []

        async def main():
            wait = box.pop()
            wait.send(None)
            # Garbage that refers to the wait. The event is a local of the test, too.
            cycle = [wait]
            cycle.append(cycle)
            del wait, cycle
            gc.collect()

        event = Own()
        alive = weakref.ref(event)
        # It began before trio runs, so it runs a coroutine of trio's.
        box = [event.wait_async()]
        self.run_in_trio(main)
        self.assertEqual(finalized, [])
        self.assertIs(alive(), event)

    def test_a_finished_wait_that_its_event_refers_to_is_collected(self):
        class Own(Event):
            pass

        async def main():
            event = box.pop()
            event.wait = event.wait or event.wait_async()
            threading.Timer(0.01, event.set).start()
            self.assertIs(await event.wait, True)
            return weakref.ref(event)

        for begins_before in (False, True):
            event = Own()
            event.wait = event.wait_async() if begins_before else None
            box = [event]
            del event
            alive = self.run_in_trio(main)
            gc.collect()
            self.assertIsNone(alive())

    def test_a_wait_that_is_never_awaited_leaves_nothing(self):
        async def main():
            gate = AutoResetEvent()
            wait = gate.wait_async()
            gate.set()
            wait.close()
            del wait
            gc.collect()
            self.assertTrue(gate.is_set())

        self.run_in_trio(main)


@unittest.skipIf(anyio is None, "anyio is not installed (pip install anyio)")
class AnyIO(unittest.TestCase):
    def test_on_each_backend(self):
        async def main():
            for kind in KINDS:
                event, results = kind(), []

                async def wait():
                    results.append(await event.wait_async())
                    results.append(await wait_any_async([Event(), event], LONG))

                with anyio.fail_after(LONG):
                    async with anyio.create_task_group() as group:
                        group.start_soon(wait)
                        await anyio.sleep(0.01)
                        event.set()
                        while len(results) < 1:
                            await anyio.sleep(0.001)
                        event.set()
                self.assertEqual(results, [True, 1])
                event.clear()
                with anyio.move_on_after(0.01) as scope:
                    await event.wait_async()
                self.assertTrue(scope.cancel_called)
                self.assertFalse(await event.wait_async(0.001))

        for backend in ("asyncio", "trio") if trio else ("asyncio",):
            with self.subTest(backend):
                anyio.run(main, backend=backend)


if __name__ == "__main__":
    unittest.main()

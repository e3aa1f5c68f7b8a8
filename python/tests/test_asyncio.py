"""Waits in asyncio."""

import asyncio
import gc
import importlib.util
import io
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
import types
import unittest
import unittest.mock
import warnings
import weakref

from tantara import AutoResetEvent, Event, wait_all_async, wait_any_async
from tantara._tantara import Notifier
from test_event import KINDS, LEVELS, LONG, Widest, needs_forks, needs_shared, start


class Tasks(unittest.IsolatedAsyncioTestCase):
    async def test_set_by_the_loop_by_a_thread_and_before(self):
        for kind in KINDS:
            event = kind()
            task = asyncio.create_task(event.wait_async())
            await asyncio.sleep(0.01)
            self.assertFalse(task.done())
            event.set()
            self.assertIs(await asyncio.wait_for(task, LONG), True)
            event.clear()
            thread = start(lambda: (time.sleep(0.01), event.set()))
            self.assertIs(await event.wait_async(), True)
            thread.join()
            event.set()
            self.assertIs(await event.wait_async(), True)

    async def test_a_pulse_counts_from_the_call(self):
        for kind in LEVELS:
            event = kind()
            wait = event.wait_async()
            event.set()
            event.clear()
            self.assertIs(await asyncio.wait_for(wait, LONG), True)
            self.assertIs(await event.wait_async(timeout=0.01), False)

    async def test_timeouts(self):
        for kind in KINDS:
            event = kind()
            for timeout in (0, -1, 0.01):
                self.assertIs(await event.wait_async(timeout), False)
            with self.assertRaises(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait_async(), 0.01)
            with self.assertRaises(TypeError):
                event.wait_async("1")
            with self.assertRaises(ValueError):
                event.wait_async(float("nan"))
            event.set()
            self.assertIs(await event.wait_async(0), True)

    async def test_ten_thousand(self):
        event = Event()
        tasks = [asyncio.create_task(event.wait_async()) for _ in range(10_000)]
        await asyncio.sleep(0)
        threading.Thread(target=event.set).start()
        self.assertEqual(set(await asyncio.wait_for(asyncio.gather(*tasks), LONG)), {True})

    async def test_a_cancelled_wait_takes_nothing_along(self):
        for is_told in (False, True):
            auto_reset = AutoResetEvent()
            first = asyncio.create_task(auto_reset.wait_async())
            second = asyncio.create_task(auto_reset.wait_async())
            await asyncio.sleep(0.01)
            auto_reset.set()
            if is_told:
                # The release is reported to the first, which is cancelled before it runs.
                while not first._fut_waiter.done():
                    await asyncio.sleep(0)
            first.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await first
            self.assertIs(await asyncio.wait_for(second, LONG), True)
            self.assertFalse(auto_reset.is_set())

    async def test_a_cancelled_any_passes_on(self):
        auto_reset, never = AutoResetEvent(), Event()
        task = asyncio.create_task(wait_any_async([never, auto_reset]))
        await asyncio.sleep(0.01)
        auto_reset.set()
        task.cancel()
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(auto_reset.wait(0))

    async def test_a_coroutine_that_is_never_awaited_leaves_nothing(self):
        auto_reset = AutoResetEvent()
        wait = auto_reset.wait_async()
        auto_reset.set()
        self.assertFalse(auto_reset.is_set(), "it was given to the coroutine")
        wait.close()
        del wait
        gc.collect()
        self.assertTrue(auto_reset.is_set())

    async def test_many(self):
        events = [Event(), AutoResetEvent(), Widest()]
        for index, event in enumerate(events):
            task = asyncio.create_task(wait_any_async(events))
            await asyncio.sleep(0.01)
            event.set()
            self.assertEqual(await asyncio.wait_for(task, LONG), index)
            event.clear()
        self.assertIsNone(await wait_any_async(events, 0.01))
        task = asyncio.create_task(wait_all_async(events))
        for event in reversed(events):
            await asyncio.sleep(0.01)
            self.assertFalse(task.done())
            event.set()
            event.clear() if event is not events[1] else None
        self.assertIs(await asyncio.wait_for(task, LONG), True)
        self.assertIs(await wait_all_async(events, 0.01), False)
        self.assertIs(await wait_all_async([]), True)

    @needs_shared
    async def test_removed_while_awaited(self):
        import tempfile
        with tempfile.TemporaryDirectory() as home:
            event = Widest("x", home)
            task = asyncio.create_task(event.wait_async())
            several = asyncio.create_task(wait_any_async([Event(), event]))
            await asyncio.sleep(0.1)
            event.remove()
            for wait in (task, several):
                with self.assertRaises(FileNotFoundError):
                    await asyncio.wait_for(wait, LONG)
            with self.assertRaises(FileNotFoundError):
                await event.wait_async()

    async def test_a_release_by_the_loop_takes_one_pass(self):
        """As many passes as with asyncio's own event, also for a release that a cancelled task passes on."""
        loop = asyncio.get_running_loop()
        passes = 0

        def count():
            nonlocal passes, handle
            passes += 1
            handle = loop.call_soon(count)

        handle = loop.call_soon(count)

        async def of(wait, act):
            woken = []

            async def waits():
                await wait()
                woken.append(passes)

            task = asyncio.create_task(waits())
            for _ in range(10):
                await asyncio.sleep(0)
            self.assertEqual(woken, [])
            before = passes
            act()
            await task
            return woken[0] - before

        theirs = asyncio.Event()
        expected = await of(theirs.wait, theirs.set)
        for kind in (Event, AutoResetEvent):
            event = kind()
            self.assertEqual(await of(event.wait_async, event.set), expected)
            event = kind()
            self.assertEqual(await of(lambda: wait_any_async([Event(), event]), event.set), expected)
            event = kind()
            self.assertEqual(await of(event.wait_async, lambda: loop.call_soon(event.set)), expected + 1)
        gate = AutoResetEvent()
        first = asyncio.create_task(gate.wait_async())
        await asyncio.sleep(0)
        self.assertEqual(await of(gate.wait_async, lambda: (gate.set(), first.cancel())), expected + 1)
        handle.cancel()

    async def test_set_by_another_thread_and_by_the_loop_at_once(self):
        """Both are seen, whichever is queued first."""
        for _ in range(300):
            mine, theirs = AutoResetEvent(), AutoResetEvent()
            tasks = [asyncio.create_task(event.wait_async()) for event in (mine, theirs)]
            await asyncio.sleep(0)
            thread = start(theirs.set)
            mine.set()
            self.assertEqual(await asyncio.wait_for(asyncio.gather(*tasks), LONG), [True, True])
            thread.join()

    async def test_a_wait_that_is_forgotten_is_collected(self):
        event = Event()
        asyncio.get_running_loop().set_debug(False)
        task = asyncio.create_task(event.wait_async())
        task._log_destroy_pending = False
        await asyncio.sleep(0.01)
        gone = weakref.ref(task)
        # The loop has weak references to its tasks. Only the cycle of the task and its wait keeps this one.
        del task
        gc.collect()
        self.assertIsNone(gone())
        event.set()


    async def test_a_wait_is_a_coroutine(self):
        for kind in KINDS:
            for is_set in (False, True):
                event = kind()
                if is_set:
                    event.set()
                wait = event.wait_async()
                self.assertTrue(asyncio.iscoroutine(wait))
                self.assertFalse(asyncio.isfuture(wait))
                task = asyncio.ensure_future(wait)
                self.assertIsInstance(task, asyncio.Task)
                await asyncio.sleep(0)
                event.set()
                self.assertEqual(await asyncio.gather(asyncio.shield(task)), [True])
        wait = Event().wait_async()
        wait.close()
        for close in (lambda: None, wait.close):
            close()
            with self.assertRaisesRegex(RuntimeError, "cannot reuse already awaited coroutine"):
                await wait
        wait = event.wait_async()
        with self.assertRaises(ZeroDivisionError):
            wait.throw(ZeroDivisionError("thrown"))

    async def test_beside_a_trio_that_cannot_run(self):
        """Its import has not ended yet, or is blocked by a None."""
        for trio in (None, types.ModuleType("trio")):
            for sniffio in (None, types.ModuleType("sniffio")):
                with unittest.mock.patch.dict(sys.modules, {"trio": trio, "sniffio": sniffio}):
                    for kind in KINDS:
                        event = kind()
                        asyncio.get_running_loop().call_soon(event.set)
                        self.assertIs(await event.wait_async(), True)
                        event.set()
                        self.assertIs(await event.wait_async(), True)
                        event.clear()
                        self.assertIs(await event.wait_async(0.001), False)

    async def test_a_wait_has_no_frame(self):
        event = Event()
        wait = event.wait_async()
        self.assertIsNone(wait.cr_frame)
        self.assertIsNone(wait.cr_await)
        task = asyncio.create_task(wait)
        await asyncio.sleep(0)
        self.assertEqual(task.get_stack(), [])
        out = io.StringIO()
        task.print_stack(file=out)
        self.assertIn("wait_async", out.getvalue())
        event.set()
        self.assertTrue(await task)

    async def test_a_second_task_cannot_await_a_wait(self):
        """Nor end it: as the coroutines of asyncio's own event."""
        for event in (Event(), AutoResetEvent(), asyncio.Event()):
            wait = event.wait() if isinstance(event, asyncio.Event) else event.wait_async()

            async def again():
                return await wait

            first, second = asyncio.ensure_future(again()), asyncio.ensure_future(again())
            await asyncio.sleep(0.001)
            second.cancel()
            with self.assertRaisesRegex(RuntimeError, "coroutine is being awaited already"):
                await second
            event.set()
            self.assertIs(await asyncio.wait_for(first, LONG), True)

    async def test_a_wait_that_is_never_awaited_is_reported(self):
        with self.assertWarnsRegex(RuntimeWarning, "was never awaited"):
            Event().wait_async()
            gc.collect()

    async def test_cancelled_with_a_message(self):
        task = asyncio.ensure_future(Event().wait_async())
        await asyncio.sleep(0)
        task.cancel("because")
        with self.assertRaises(asyncio.CancelledError):
            await task
        self.assertTrue(task.cancelled())

    async def test_each_task_runs_in_its_context(self):
        import contextvars
        number, event, seen = contextvars.ContextVar("number"), Event(), []

        async def client(mine):
            number.set(mine)
            await event.wait_async()
            seen.append((mine, number.get(), asyncio.current_task().get_name()))

        tasks = []
        for each in range(3):
            tasks.append(asyncio.create_task(client(each), name=str(each)))
        await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*tasks)
        self.assertEqual(seen, [(each, each, str(each)) for each in range(3)])


class Stops(unittest.TestCase):
    def test_every_stop_iteration_belongs_to_who_catches_it(self):
        event = Event()
        event.set()
        caught = []
        for _ in range(3):
            with self.assertRaises(StopIteration) as stop:
                next(event.wait_async().__await__())
            caught.append(stop.exception)
        self.assertEqual([stop.value for stop in caught], [True] * 3)
        self.assertEqual(len(set(map(id, caught))), 3)
        with self.assertRaises(StopIteration) as stop:
            event.wait_async().send(None)
        self.assertIs(stop.exception.value, True)

    def test_a_stop_iteration_that_is_changed_leaves_the_next_await_alone(self):
        event = Event()
        event.set()
        try:
            next(event.wait_async().__await__())
        except StopIteration as stop:
            stop.value = "changed"

        async def main():
            return await event.wait_async()

        self.assertIs(asyncio.run(main()), True)

    def test_a_debugger_that_changes_a_stop_iteration_leaves_the_next_await_alone(self):
        event, changed = Event(), []
        event.set()

        def trace(_, kind, what):
            if kind == "exception" and what[0] is StopIteration:
                what[1].value = "changed"
                changed.append(what[1])
            return trace

        async def main():
            return await event.wait_async()

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            asyncio.run(main())
        finally:
            sys.settrace(before)
        changed.clear()
        self.assertIs(asyncio.run(main()), True)

    def test_a_stop_iteration_keeps_no_frame(self):
        class Local:
            pass

        event = Event()
        event.set()

        def catch():
            local = Local()
            try:
                next(event.wait_async().__await__())
            except StopIteration:
                pass
            return weakref.ref(local)

        gone = catch()
        gc.collect()
        self.assertIsNone(gone())

    def test_an_interrupt_of_one_task_leaves_the_others(self):
        for by_thread in (False, True):
            event, out = Event(), []
            loop = asyncio.new_event_loop()

            async def client(number):
                await event.wait_async()
                if number == 1:
                    raise KeyboardInterrupt
                out.append(number)

            async def main():
                tasks = [asyncio.ensure_future(client(number)) for number in range(4)]
                await asyncio.sleep(0)
                start(event.set).join() if by_thread else event.set()
                return await asyncio.gather(*tasks, return_exceptions=True)

            task = loop.create_task(main())
            with self.assertRaises(KeyboardInterrupt):
                loop.run_until_complete(task)
            self.assertEqual(out, [0])
            try:
                loop.run_until_complete(task)
            except KeyboardInterrupt:
                pass
            self.assertEqual(out, [0, 2, 3])
            loop.close()


    def test_each_wait_for_a_set_event_is_an_object_of_its_own(self):
        script = (
            "import asyncio, tantara\n"
            "async def main():\n"
            "    for kind in (tantara.Event, tantara.AutoResetEvent):\n"
            "        for arguments in ((), (60,)):\n"
            "            events = [kind() for _ in range(3)]\n"
            "            for event in events: event.set()\n"
            "            waits = {event.wait_async(*arguments): event for event in events}\n"
            "            results = [await each for each in asyncio.as_completed(list(waits))]\n"
            "            assert results == [True] * 3, results\n"
            "asyncio.run(main())\n"
        )
        # Beside trio, and without it, the waits are made in different ways.
        for beside in ("", "import trio\n") if importlib.util.find_spec("trio") else ("",):
            subprocess.run([sys.executable, "-c", beside + script], check=True, timeout=LONG)

    def test_what_a_signal_handler_raises_during_a_set_is_raised(self):
        """And the tasks are released nevertheless."""
        class Loop(asyncio.SelectorEventLoop):
            def call_soon(self, *arguments, **keywords):
                if armed:
                    armed.clear()
                    signal.raise_signal(signal.SIGINT)
                return super().call_soon(*arguments, **keywords)

        def handler(*_):
            raise SystemExit("by a signal")

        async def main():
            task = asyncio.ensure_future(event.wait_async())
            await asyncio.sleep(0)
            armed.append(1)
            with self.assertRaisesRegex(SystemExit, "by a signal"):
                event.set()
            return await asyncio.wait_for(task, LONG)

        before = signal.signal(signal.SIGINT, handler)
        try:
            for kind in (Event, AutoResetEvent):
                event, armed, loop = kind(), [], Loop()
                self.assertIs(loop.run_until_complete(main()), True)
                loop.close()
        finally:
            signal.signal(signal.SIGINT, before)


@unittest.skipIf(importlib.util.find_spec("uvloop") is None, "uvloop is not installed (pip install uvloop)")
class UvLoop(unittest.TestCase):
    def test_everything_runs_there_too(self):
        """The tests above in a loop of uvloop."""
        import uvloop
        names = unittest.defaultTestLoader.getTestCaseNames(Tasks)
        # Two tests depend on internals of asyncio's own loop and tasks.
        for name in set(names) - {"test_a_release_by_the_loop_takes_one_pass"}:
            loop = uvloop.new_event_loop()
            try:
                with self.subTest(name):
                    loop.run_until_complete(asyncio.wait_for(getattr(Tasks(name), name)(), LONG * 5))
            finally:
                loop.close()


class Drowsy(selectors.DefaultSelector):
    """Calls a function at the last moment before the loop sleeps, as signal handlers and finalizers may be called."""

    act = woken = None

    def select(self, timeout=None):
        if self.act is None or timeout == 0:
            return super().select(timeout)
        act, self.act = self.act, None
        act()
        events = super().select(LONG)
        self.woken = bool(events)
        return events


class Loops(unittest.TestCase):
    def test_set_while_the_loop_goes_to_sleep(self):
        for kind in KINDS:
            for arguments in ((), (LONG * 10,)):
                event, selector = kind(), Drowsy()
                loop = asyncio.SelectorEventLoop(selector)

                async def main():
                    wait = event.wait_async(*arguments)
                    selector.act = event.set
                    return await wait

                with self.subTest(kind=kind.__name__, arguments=arguments):
                    self.assertIs(loop.run_until_complete(main()), True)
                    self.assertTrue(selector.woken)
                loop.close()

    def test_set_while_a_loop_within_a_callback_of_another_goes_to_sleep(self):
        """As programs run loops that patch asyncio."""
        event, selector, results = Event(), Drowsy(), []
        inner, outer = asyncio.SelectorEventLoop(selector), asyncio.new_event_loop()

        async def wait():
            waits = event.wait_async()
            selector.act = event.set
            return await waits

        def callback():
            asyncio._set_running_loop(None)
            try:
                results.append(inner.run_until_complete(wait()))
            finally:
                asyncio._set_running_loop(outer)
                outer.stop()

        outer.call_soon(callback)
        outer.run_forever()
        self.assertEqual(results, [True])
        self.assertTrue(selector.woken)
        for loop in (inner, outer):
            loop.close()

    def test_a_loop_that_is_awake_is_not_woken(self):
        class Counting(selectors.DefaultSelector):
            woken = 0

            def select(self, timeout=None):
                events = super().select(timeout)
                self.woken += len(events)
                return events

        def call(function):
            function()

        async def main():
            loop = asyncio.get_running_loop()
            for act in (event.set, lambda: event.set(), lambda: call(event.set)):
                for schedule in (loop.call_soon, lambda act: loop.call_later(0.001, act)):
                    schedule(act)
                    self.assertIs(await event.wait_async(), True)
                    event.clear()
                task = asyncio.ensure_future(event.wait_async())
                await asyncio.sleep(0)
                act()
                self.assertIs(await task, True)
                event.clear()

        for kind in (Event, AutoResetEvent):
            event, selector = kind(), Counting()
            loop = asyncio.SelectorEventLoop(selector)
            loop.run_until_complete(main())
            loop.close()
            self.assertEqual(selector.woken, 0)

    def test_a_loop_that_cannot_be_told(self):
        if Notifier().fileno() is None:
            self.skipTest("no loop watches descriptors for the package here")

        class Full(asyncio.SelectorEventLoop):
            def add_reader(self, *_):
                raise RuntimeError("no more readers")

        async def main():
            wait = gate.wait_async()
            with self.assertRaisesRegex(RuntimeError, "no more readers"):
                await wait
            with self.assertRaisesRegex(RuntimeError, "cannot reuse already awaited coroutine"):
                await wait

        gate, loop = AutoResetEvent(), Full()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            loop.run_until_complete(main())
            gc.collect()
        self.assertEqual([str(warning.message) for warning in caught], [])
        self.assertEqual(gate.waiting, 0)
        loop.close()

    def test_set_by_the_thread_of_a_loop_that_does_not_run(self):
        event, loop, other = Event(), asyncio.new_event_loop(), asyncio.new_event_loop()

        async def begin():
            task = asyncio.ensure_future(event.wait_async())
            await asyncio.sleep(0)
            return task

        async def set():
            event.set()

        for act in (lambda: event.set(), lambda: other.run_until_complete(set())):
            task = loop.run_until_complete(begin())
            act()
            self.assertIs(loop.run_until_complete(asyncio.wait_for(task, LONG)), True)
            event.clear()
        for each in (loop, other):
            each.close()

    def test_set_under_load(self):
        """Threads set and clear while tasks begin to wait, are released and are cancelled."""
        event, auto_reset, stop = Event(), AutoResetEvent(), Event()

        def pulse():
            while not stop.is_set():
                event.set()
                event.clear()
                auto_reset.set()

        async def client(number):
            for round in range(50):
                wait = event.wait_async() if (number + round) % 2 else wait_any_async([auto_reset, event])
                if round % 5 == 0:
                    task = asyncio.ensure_future(wait)
                    await asyncio.sleep(0)
                    task.cancel()
                    await asyncio.gather(task, return_exceptions=True)
                else:
                    await wait

        async def main():
            await asyncio.wait_for(asyncio.gather(*(client(number) for number in range(40))), LONG)

        threads = [start(pulse) for _ in range(3)]
        asyncio.run(main())
        stop.set()
        for thread in threads:
            thread.join()

    def test_loops_of_two_threads_wait_for_one_event(self):
        event, results = Event(), []

        async def main():
            results.append(await event.wait_async())

        threads = [start(lambda: asyncio.run(main())) for _ in range(2)]
        time.sleep(0.05)
        event.set()
        for thread in threads:
            thread.join(LONG)
        self.assertEqual(results, [True, True])

    def test_a_loop_that_is_closed_takes_nobody_along(self):
        event = Event()
        loop = asyncio.new_event_loop()

        async def main():
            asyncio.ensure_future(event.wait_async())._log_destroy_pending = False
            await asyncio.sleep(0.01)

        loop.run_until_complete(main())
        loop.close()
        event.set()
        del loop
        gc.collect()
        event.clear()
        event.set()
        self.assertTrue(event.wait(0))

    @unittest.skipUnless(os.path.exists("/proc/self/fd"), "descriptors cannot be counted")
    def test_descriptors_do_not_pile_up(self):
        def count():
            gc.collect()
            return len(os.listdir("/proc/self/fd"))

        async def main():
            await Event().wait_async(0.001)

        asyncio.run(main())
        before = count()
        for _ in range(50):
            asyncio.run(main())
        self.assertLessEqual(count(), before + 1)

    @needs_forks
    def test_a_forked_child_has_loops_of_its_own(self):
        event = Event()

        async def main():
            await event.wait_async(0.01)
            child = os.fork()
            return child

        child = asyncio.run(main())
        if child == 0:
            async def again():
                start(lambda: (time.sleep(0.01), event.set()))
                return await event.wait_async(LONG)
            os._exit(0 if asyncio.run(again()) else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)


if __name__ == "__main__":
    unittest.main()

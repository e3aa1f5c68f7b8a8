"""Events between machines, on a real etcd."""

import asyncio
import contextlib
import copy
import gc
import importlib.util
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest
import urllib.request
import weakref

import tantara
from tantara import (
    AutoResetEvent,
    Cluster,
    ClusterError,
    ClusterUnreachable,
    Event,
    OutcomeUnknown,
    wait_all,
    wait_all_async,
    wait_any,
    wait_any_async,
)
from test_event import LONG, Widest, start
from test_shared import until
from test_signals import run, signal_when_asleep


def program():
    """Return the path of etcd: $ETCD, in $PATH, or where `cargo xtask etcd` unpacks it."""
    unpacked = pathlib.Path(__file__).parents[2] / "target/etcd/usr/bin/etcd"
    places = [os.environ.get("ETCD"), shutil.which("etcd"), "/usr/bin/etcd", unpacked]
    found = [place for place in places if place and os.path.isfile(place)]
    if not found:
        raise AssertionError("etcd is missing: run `cargo xtask etcd`, or let $ETCD name it")
    return str(found[0])


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Etcd:
    """A server with its data in memory, if there is a file system in memory."""

    def __init__(self, *flags):
        etcd = program()
        self.home = tempfile.mkdtemp(dir="/dev/shm" if os.path.isdir("/dev/shm") else None)
        for _ in range(3):
            # Another process may take a free port before etcd does.
            self.endpoint, peer = f"127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}"
            client = f"http://{self.endpoint}"
            # It must end even if the tests are killed.
            keeper = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
            arguments = [
                *keeper, etcd, "--data-dir", tempfile.mkdtemp(dir=self.home), "--log-level", "error",
                "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
                "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}", *flags,
            ]
            output = subprocess.DEVNULL
            self.process = subprocess.Popen(arguments, stdin=output, stdout=output, stderr=output)
            end = time.monotonic() + LONG
            while self.process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    self.ask("kv/range", key="aGVhbHRo")
                    return
                time.sleep(0.02)
            self.stop()
        raise AssertionError("etcd does not start")

    def ask(self, what, **body):
        """Call the HTTP gateway."""
        request = urllib.request.Request(f"http://{self.endpoint}/v3/{what}", json.dumps(body).encode())
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=LONG) as answer:
            return json.load(answer)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.kill()
        shutil.rmtree(self.home, ignore_errors=True)


class Network:
    """A proxy that drops the answers of its server on demand."""

    def __init__(self, server, port=0):
        self.server, self.loses = server.endpoint, False
        self.listener = socket.create_server(("127.0.0.1", port))
        self.port = self.listener.getsockname()[1]
        self.endpoint = f"127.0.0.1:{self.port}"
        self.sockets = []
        start(self.accept)

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                host, port = self.server.split(":")
                server = socket.create_connection((host, int(port)))
                self.sockets += [client, server]
                start(self.carry, client, server, False)
                start(self.carry, server, client, True)

    def carry(self, source, sink, is_answer):
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(65536)
                if not data:
                    return
                if not (is_answer and self.loses):
                    sink.sendall(data)

    def mend(self):
        self.loses = False
        self.cut()

    def cut(self):
        for each in self.sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        self.cut()


def setUpModule():
    global ETCD
    ETCD = Etcd()
    unittest.addModuleCleanup(ETCD.stop)


class OnCluster(unittest.TestCase):
    def setUp(self):
        self.cluster = self.connect(record_waits=True)

    def connect(self, **options):
        """Connect to a namespace of this test."""
        cluster = Cluster(ETCD.endpoint, namespace=f"{type(self).__name__}-{self._testMethodName}", **options)
        self.addCleanup(cluster.close)
        return cluster


class Methods(OnCluster):
    def test_methods(self):
        event = self.cluster.event("door")
        self.assertEqual((event.name, self.cluster.namespace), ("door", "Methods-test_methods"))
        self.assertIs(event.is_set(), False)
        self.assertIs(event.wait(0), False)
        self.assertIsNone(event.set())
        self.assertIs(event.is_set(), True)
        self.assertIs(event.wait(), True)
        self.assertIs(event.wait(timeout=0), True)
        self.assertIs(self.connect().event("door").is_set(), True)
        self.assertIsNone(event.clear())
        self.assertIs(event.is_set(), False)
        self.assertIsNone(event.pulse())
        self.assertIs(event.is_set(), False)
        self.assertRegex(repr(event), r"<ClusterEvent .door. at 0x")

    def test_set_and_pulse_release_threads(self):
        for method in ("set", "pulse"):
            event, results = self.cluster.event(method), []
            threads = [start(lambda: results.append(event.wait(LONG))) for _ in range(5)]
            until(lambda: sum(waiter.waits for waiter in event.waiters()) == 5)
            getattr(self.connect().event(method), method)()
            for thread in threads:
                thread.join(LONG)
            self.assertEqual(results, [True] * 5)
            self.assertIs(event.is_set(), method == "set")

    def test_timeouts(self):
        event = self.cluster.event("x")
        for timeout in (0, -1, False, 0.001, 0.05):
            began = time.monotonic()
            self.assertIs(event.wait(timeout), False)
            self.assertGreaterEqual(time.monotonic() - began, timeout)
        for timeout, error in (("1", TypeError), (float("nan"), ValueError), (1e300, OverflowError)):
            with self.assertRaises(error):
                event.wait(timeout)
        timer = threading.Timer(0.02, self.connect().event("x").set)
        timer.start()
        self.assertIs(event.wait(LONG), True)
        timer.join()

    def test_among_other_kinds(self):
        events = [Event(), Widest(), self.cluster.event("a"), AutoResetEvent(), self.cluster.event("b")]
        self.assertIsNone(wait_any(events, 0.01))
        self.assertIs(wait_all(events, 0), False)
        for index in (0, 4, 2):
            timer = threading.Timer(0.02, events[index].set)
            timer.start()
            self.assertEqual(wait_any(events), index)
            timer.join()
            events[index].clear()
        for index in (4, 2, 0):
            events[index].set()
        self.assertEqual(wait_any(events[2:]), 0, "the lowest")
        events[3].set()
        self.assertIs(wait_all(events, 0.01), False)
        self.assertTrue(events[3].is_set(), "not used up")
        events[1].set()
        self.assertIs(wait_all(events), True)
        self.assertFalse(events[3].is_set())
        self.assertEqual(wait_any([self.cluster.event("c")] * 2 + [events[2]]), 2)

    def test_all_latches(self):
        events, results = [self.cluster.event("a"), Event(), self.cluster.event("b")], []
        thread = start(lambda: results.append(wait_all(events)))
        until(lambda: events[0].waiters() and events[2].waiters())
        events[2].pulse()
        events[0].pulse()
        events[1].set()
        thread.join(LONG)
        self.assertEqual(results, [True])

    def test_who_waits_and_what_there_is(self):
        event = self.cluster.event("b")
        thread = start(event.wait)
        until(event.waiters)
        (waiter,) = event.waiters()
        self.assertIsInstance(waiter, tantara.ClusterWaiter)
        self.assertEqual((waiter.host, waiter.pid, waiter.waits), (socket.gethostname(), os.getpid(), 1))
        self.assertLess(abs(waiter.since.timestamp() - time.time()), LONG)
        self.cluster.event("a").set()
        with self.cluster.event("c").hold():
            entries = self.cluster.list()
        self.assertEqual([(entry.name, entry.is_set) for entry in entries], [("a", True), ("b", False), ("c", True)])
        self.assertEqual(entries[0].last_set.pid, os.getpid())
        self.assertIsNone(entries[1].last_set)
        self.assertEqual(entries[1].waiters, [waiter])
        self.assertEqual([type(holder) for holder in entries[2].holders], [tantara.Origin])
        event.set()
        thread.join(LONG)

    def test_last_set_and_its_note(self):
        event = self.cluster.event("noted")
        self.assertIsNone(event.last_set())
        event.set(note="disk full")
        last = event.last_set()
        self.assertIsInstance(last, tantara.Origin)
        self.assertEqual((last.host, last.pid, last.note), (socket.gethostname(), os.getpid(), "disk full"))
        self.assertEqual(self.cluster.list()[0].last_set, last)
        event.set()
        self.assertIsNone(event.last_set().note)
        event.pulse(note="größe: 5 µs")
        self.assertEqual((event.is_set(), event.last_set().note), (False, "größe: 5 µs"))

        async def set_and_pulse():
            await event.set_async(note="set")
            self.assertEqual(event.last_set().note, "set")
            await event.pulse_async(note="pulse")

        asyncio.run(set_and_pulse())
        self.assertEqual(event.last_set().note, "pulse")
        for method in (event.set, event.pulse):
            with self.assertRaises(ValueError):
                method(note="a\nb")
            with self.assertRaises(TypeError):
                method("a note is a keyword")
        self.assertEqual(event.last_set().note, "pulse")

    def test_times_that_no_calendar_knows(self):
        """Foreign values do not break it."""
        import base64
        key = base64.b64encode(f"/{self.cluster.namespace}/w/x/1".encode()).decode()
        ETCD.ask("kv/put", key=key, value=base64.b64encode(b"9999999999999999 7 1 0 h").decode())
        self.assertEqual(self.cluster.event("x").waiters()[0].since.year, 9999)

    def test_removed(self):
        event, errors = self.cluster.event("x"), []

        def wait(wait):
            with self.assertRaises(FileNotFoundError) as caught:
                wait()
            errors.append(str(caught.exception))

        threads = [start(wait, event.wait), start(wait, lambda: wait_any([Event(), event]))]
        until(lambda: sum(waiter.waits for waiter in event.waiters()) == 2)
        self.assertIs(event.remove(), True)
        for thread in threads:
            thread.join(LONG)
        self.assertEqual([bool(re.search("x was removed", error)) for error in errors], [True] * 2, errors)
        self.assertIs(event.remove(), False)
        # The object has seen the event. Another one has not.
        for method in (event.is_set, event.last_set, event.wait, lambda: event.wait(0), lambda: event.wait_unset(LONG),
                       lambda: event.wait_next(0), lambda: wait_all([event], 0)):
            with self.assertRaisesRegex(FileNotFoundError, "x was removed"):
                method()
        self.assertIs(self.cluster.event("x").is_set(), False)
        event.set()
        self.assertIs(event.is_set(), True)

    def test_a_wait_counts_from_its_call_on(self):
        async def main():
            for number in range(20):
                event = self.cluster.event(str(number))
                wait, any_of = event.wait_async(LONG), wait_any_async([Event(), event], LONG)
                self.cluster.event(str(number)).pulse()
                self.assertEqual((await wait, await any_of), (True, 1))

        asyncio.run(main())

    def test_closed(self):
        event, results = self.cluster.event("x"), []
        thread = start(lambda: results.append(event.wait(LONG)))
        until(event.waiters)
        with self.cluster as cluster:
            pass
        cluster.close()
        self.assertRegex(repr(cluster), "closed>$")
        for method in (event.is_set, event.set, event.clear, event.pulse, event.wait, event.wait_async, event.set_async,
                     event.hold, event.hold_async, event.waiters, event.remove, cluster.list, cluster.__enter__,
                     lambda: cluster.event("y"), lambda: wait_any([event])):
            with self.assertRaisesRegex(ValueError, "the cluster is closed"):
                method()
        self.connect().event("x").set()
        thread.join(LONG)
        self.assertEqual(results, [True], "closing ends no wait")

    def test_what_cannot_be(self):
        for name in ("", "a/b", "..", "x y", "x" * 300, "\ud800"):
            with self.assertRaises(ValueError):
                self.cluster.event(name)
        for endpoints in ("", [], "a:b", "ftp://x", [ETCD.endpoint, "x y"]):
            with self.assertRaisesRegex(ValueError, "HOST:PORT"):
                Cluster(endpoints)
        for endpoints in (None, 5, b"127.0.0.1:1", [5]):
            with self.assertRaisesRegex(TypeError, "str"):
                Cluster(endpoints)
        for options in ({"namespace": "a/b"}, {"timeout": 0}, {"timeout": float("nan")}, {"hold_ttl": -1},
                        {"user": "x"}, {"password": "x"}, {"cert": "x"}, {"key": "x"}, {"timeout": float("inf")}):
            with self.assertRaises(ValueError, msg=options):
                Cluster(ETCD.endpoint, **options)
        for options in ({"timeout": "1"}, {"timeout": None}, {"namespace": 5}, {"cacert": 5}, {"nonsense": 5}):
            with self.assertRaises(TypeError, msg=options):
                Cluster(ETCD.endpoint, **options)
        with self.assertRaises(FileNotFoundError):
            Cluster(ETCD.endpoint, cacert=pathlib.Path("/no/such/file"))
        for kind in (tantara.ClusterEvent, tantara.Hold):
            with self.assertRaises(TypeError):
                kind()

    def test_neither_can_be_copied(self):
        event = self.cluster.event("x")
        with event.hold() as hold:
            for thing in (self.cluster, event, hold):
                for act in (pickle.dumps, copy.copy, copy.deepcopy):
                    with self.assertRaisesRegex(TypeError, "connect in the other process too"):
                        act(thing)

    def test_endpoints_in_every_form(self):
        dead = f"127.0.0.1:{free_port()}"
        for endpoints in (f"{dead},{ETCD.endpoint}", [dead, ETCD.endpoint], (ETCD.endpoint,), iter([ETCD.endpoint])):
            with Cluster(endpoints) as cluster:
                self.assertIs(cluster.event("nobody-sets-this").is_set(), False)

    def test_it_is_documented(self):
        for kind in (Cluster, tantara.ClusterEvent, tantara.Hold, OutcomeUnknown):
            for name in vars(kind):
                if not name.startswith("_"):
                    self.assertTrue(getattr(kind, name).__doc__, (kind, name))


class Holds(OnCluster):
    def test_set_for_as_long_as_it_is_held(self):
        event = self.cluster.event("up")
        with event.hold() as hold, event.hold():
            self.assertTrue(event.is_set())
            event.clear()
            self.assertTrue(event.wait(0))
            self.assertIsInstance(hold.lost, Event)
            self.assertIs(hold.lost, hold.lost)
            self.assertFalse(hold.lost.is_set())
            self.assertEqual(wait_any([hold.lost, event]), 1)
        until(lambda: not event.is_set())
        hold.release()
        self.assertFalse(hold.lost.is_set())
        with self.assertRaisesRegex(ValueError, "released"):
            hold.__enter__()
        self.assertRegex(repr(hold), r"^<Hold of .up. at 0x\w+ released>$")

    def test_forgotten(self):
        event = self.cluster.event("up")
        hold = event.hold()
        self.assertTrue(event.is_set())
        del hold
        gc.collect()
        until(lambda: not event.is_set())

    def test_it_outlives_its_cluster_and_ends_with_the_program(self):
        script = (
            f"cluster = Cluster('{ETCD.endpoint}', namespace='{self.cluster.namespace}', hold_ttl=3600)\n"
            "event = cluster.event('up')\n"
            "hold = event.hold(); cluster.close(); del event, cluster\n"
            "print('holds', flush=True); sys.stdin.read()"
        )
        process = run(script, stdin=subprocess.PIPE)
        self.assertEqual(process.stdout.readline(), "holds\n")
        self.assertTrue(self.cluster.event("up").is_set())
        self.assertEqual(process.communicate(timeout=LONG), ("", ""))
        self.assertFalse(self.cluster.event("up").is_set())

    def test_one_that_an_attribute_of_its_own_event_keeps_is_collected(self):
        event = self.cluster.event("up")
        hold = event.hold()
        hold.lost.hold = hold
        gone = weakref.ref(hold)
        del hold
        gc.collect()
        self.assertIsNone(gone())
        until(lambda: not event.is_set())

    def test_lost(self):
        # A lease of two seconds is renewed twice in that time.
        cluster = self.connect(hold_ttl=2)
        for is_awaited in (False, True):
            hold = cluster.event("up").hold()
            lease = self.lease_of_hold()
            if is_awaited:
                async def lose():
                    loses = asyncio.create_task(hold.lost.wait_async(LONG))
                    await asyncio.sleep(0.01)
                    ETCD.ask("kv/lease/revoke", ID=lease)
                    return await loses
                self.assertTrue(asyncio.run(lose()))
            else:
                ETCD.ask("kv/lease/revoke", ID=lease)
                self.assertTrue(hold.lost.wait(LONG))
            self.assertRegex(repr(hold), "lost>$")
            self.assertFalse(self.cluster.event("up").is_set())
            hold.release()

    def lease_of_hold(self):
        import base64
        text = lambda text: base64.b64encode(text.encode()).decode()
        prefix = f"/{self.cluster.namespace}/e/up/h/"
        (kv,) = ETCD.ask("kv/range", key=text(prefix), range_end=text(prefix[:-1] + "0"))["kvs"]
        return kv["lease"]


class Tasks(OnCluster, unittest.IsolatedAsyncioTestCase):
    async def asyncSetUp(self):
        # These tests block the loop.
        asyncio.get_running_loop().slow_callback_duration = LONG

    async def test_methods(self):
        event = self.cluster.event("x")
        self.assertIs(await event.is_set_async(), False)
        self.assertIsNone(await event.set_async())
        self.assertIs(await event.is_set_async(), True)
        self.assertIs(await event.wait_async(), True)
        self.assertIs(await event.wait_async(0), True)
        self.assertIsNone(await event.clear_async())
        self.assertIsNone(await event.pulse_async())
        self.assertIs(await event.is_set_async(), False)
        with await event.hold_async() as hold:
            self.assertIs(await event.is_set_async(), True)
            self.assertFalse(hold.lost.is_set())

    async def test_timeouts(self):
        event = self.cluster.event("x")
        for timeout in (0, -1, 0.01):
            self.assertIs(await event.wait_async(timeout), False)
            self.assertIsNone(await wait_any_async([Event(), event], timeout))
            self.assertIs(await wait_all_async([event, Event()], timeout), False)
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait_async(), 0.01)
        with self.assertRaises(TypeError):
            event.wait_async("1")

    async def test_released(self):
        events = [Event(), self.cluster.event("x"), AutoResetEvent()]
        for method in ("pulse", "set"):
            waits = [events[1].wait_async(), wait_any_async(events, LONG), wait_all_async(events[1:])]
            tasks = [asyncio.create_task(wait) for wait in waits]
            while not (waiters := await asyncio.to_thread(events[1].waiters)) or waiters[0].waits < 3:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(getattr(self.connect().event("x"), method))
            self.assertIs(await tasks[0], True)
            self.assertEqual(await tasks[1], 1)
            self.assertFalse(tasks[2].done())
            events[2].set()
            self.assertIs(await tasks[2], True)

    async def test_a_release_that_has_come_by_the_time_wins(self):
        """The event was cleared again, and the message about the set is not read before the timeout expires."""
        event = self.cluster.event("x")
        wait = asyncio.create_task(event.wait_async(0.3))
        while not await asyncio.to_thread(event.waiters):
            await asyncio.sleep(0.01)
        other = self.connect().event("x")
        other.pulse()
        time.sleep(0.5)
        self.assertIs(await wait, True)

    async def test_in_trio(self):
        try:
            import trio
        except ImportError:
            self.skipTest("trio is not installed (pip install trio)")
        event = self.cluster.event("x")

        async def main():
            self.assertIs(await event.is_set_async(), False)
            for timeout in (0, 0.01):
                self.assertIs(await event.wait_async(timeout), False)
                self.assertIsNone(await wait_any_async([Event(), event], timeout))
            with trio.move_on_after(0.01) as scope:
                await event.wait_async()
            self.assertTrue(scope.cancelled_caught)
            for method in (event.pulse_async, event.set_async):
                results = []

                async def wait():
                    results.append(await event.wait_async())

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(wait)
                    while not await trio.to_thread.run_sync(event.waiters):
                        await trio.sleep(0.01)
                    await method()
                self.assertEqual(results, [True])
            with await event.hold_async():
                self.assertIs(await event.wait_async(0), True)

        await asyncio.to_thread(trio.run, main)

    async def test_a_cancelled_wait_leaves(self):
        event = self.cluster.event("x")
        tasks = [asyncio.create_task(wait) for wait in (event.wait_async(), wait_any_async([Event(), event]))]
        while not await asyncio.to_thread(event.waiters):
            await asyncio.sleep(0.01)
        gone = [weakref.ref(task) for task in tasks]
        for task in tasks:
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task
        while await asyncio.to_thread(event.waiters):
            await asyncio.sleep(0.01)
        del task, tasks
        gc.collect()
        self.assertEqual([task() for task in gone], [None] * 2)

    async def test_a_wait_that_is_never_awaited_leaves(self):
        event = self.cluster.event("x")
        waits = [event.wait_async(), wait_all_async([event, Event()])]
        while not await asyncio.to_thread(event.waiters):
            await asyncio.sleep(0.01)
        for wait in waits:
            wait.close()
        del wait, waits
        gc.collect()
        while await asyncio.to_thread(event.waiters):
            await asyncio.sleep(0.01)

    async def test_removed(self):
        event = self.cluster.event("x")
        tasks = [asyncio.create_task(wait) for wait in (event.wait_async(), wait_all_async([Event(), event], LONG))]
        while not (waiters := await asyncio.to_thread(event.waiters)) or waiters[0].waits < 2:
            await asyncio.sleep(0.01)
        event.remove()
        for task in tasks:
            with self.assertRaises(FileNotFoundError):
                await task

    async def test_a_thousand_waits(self):
        event = self.cluster.event("x")
        tasks = [asyncio.create_task(event.wait_async(LONG)) for _ in range(1_000)]
        while not (waiters := await asyncio.to_thread(event.waiters)) or waiters[0].waits < 1_000:
            await asyncio.sleep(0.01)
        await event.pulse_async()
        self.assertEqual(set(await asyncio.gather(*tasks)), {True})


class Outages(unittest.TestCase):
    def setUp(self):
        self.etcd = Etcd("--auth-token", "simple", "--bcrypt-cost", "4")
        self.addCleanup(self.etcd.stop)

    def test_unreachable_is_no_timeout(self):
        cluster = Cluster(self.etcd.endpoint, timeout=0.5, hold_ttl=2)
        event, hold, done = cluster.event("x"), cluster.event("held").hold(), Event()
        self.assertIs(event.wait(0.01), False)
        done.set()

        async def awaits():
            begun = [event.wait_async(0.3), wait_any_async([Event(), event], 0.3), wait_all_async([event], 0.3),
                     asyncio.to_thread(event.wait, 0.3), asyncio.to_thread(wait_any, [event, Event()], 0.3)]
            begun = [asyncio.ensure_future(wait) for wait in begun]
            await asyncio.sleep(0.1)
            self.etcd.kill()
            outcomes = await asyncio.gather(*begun, return_exceptions=True)
            late = [event.is_set_async(), event.set_async(), event.wait_async(), event.wait_async(0),
                    event.hold_async(), wait_any_async([event, Event()], 0.01), wait_all_async([done, event], 0)]
            methods = [event.is_set, event.set, event.clear, event.wait, lambda: event.wait(0), lambda: event.wait(0.01),
                     lambda: wait_any([event, Event()], 0.01), lambda: wait_all([event], 0), event.hold, event.remove,
                     event.waiters, cluster.list, lambda: Cluster(self.etcd.endpoint, timeout=0.2)]
            late += [asyncio.to_thread(method) for method in methods]
            outcomes += await asyncio.gather(*late, return_exceptions=True)
            self.assertEqual([type(outcome) for outcome in outcomes], [ClusterUnreachable] * len(outcomes))
            self.assertEqual(await wait_any_async([event, done], 0.01), 1)
            return outcomes[0]

        error = asyncio.run(awaits())
        self.assertRegex(str(error), f"^cannot .*: etcd cannot be reached: .*{self.etcd.endpoint}: ")
        self.assertNotIsInstance(error, TimeoutError)
        self.assertIsInstance(error, ClusterError)
        self.assertIsInstance(error, ConnectionError)
        self.assertEqual(wait_any([event, done], 0.01), 1)
        self.assertTrue(hold.lost.wait(LONG))
        cluster.close()

    def test_an_outcome_that_is_not_known_is_found_out(self):
        network = Network(self.etcd)
        self.addCleanup(network.close)
        with Cluster(network.endpoint, timeout=1, learn_members=False) as cluster:
            event = cluster.event("x")
            event.clear()
            network.loses = True
            with self.assertRaises(OutcomeUnknown) as caught:
                event.set()
            network.mend()
            self.assertIs(caught.exception.resolve(), True)
            self.assertIs(caught.exception.resolve(), True)
            self.assertTrue(event.is_set())
        elsewhere = pickle.loads(pickle.dumps(caught.exception))
        self.assertEqual(str(elsewhere), str(caught.exception))
        with self.assertRaises(OutcomeUnknown):
            elsewhere.resolve()

    def test_users(self):
        for name in ("root", "guest"):
            self.etcd.ask("auth/user/add", name=name, password="open sesame")
        self.etcd.ask("auth/user/grant", user="root", role="root")
        self.etcd.ask("auth/enable")
        who = {"user": "root", "password": "open sesame"}
        with Cluster(self.etcd.endpoint, **who) as cluster:
            cluster.event("x").set()
        for options in ({}, {**who, "password": "wrong"}, {**who, "user": "nobody"}):
            with self.assertRaises(PermissionError):
                Cluster(self.etcd.endpoint, **options).event("x").set()
        passwords = []
        ask = lambda: passwords.append("open sesame") or passwords[0]
        with Cluster(self.etcd.endpoint, **{**who, "password": ask}) as cluster:
            cluster.event("x").set()
        self.assertTrue(passwords)
        for broken in (lambda: 1 / 0, lambda: 7):
            with self.assertRaises(PermissionError) as caught:
                Cluster(self.etcd.endpoint, user="root", password=broken)
            self.assertIn("credentials", str(caught.exception))
        with Cluster(self.etcd.endpoint, **{**who, "user": "guest"}) as cluster:
            for method in (cluster.event("x").set, cluster.event("x").wait, lambda: wait_any([cluster.event("x")])):
                with self.assertRaises(PermissionError):
                    method()

    def test_a_password_in_clear_is_warned_of(self):
        # An address for documentation (RFC 5737), which is unreachable.
        far = {"endpoints": "192.0.2.1:2379", "user": "ann", "password": "sesame", "connect_timeout": 0.1}
        with self.assertWarnsRegex(UserWarning, "192.0.2.1:2379 without TLS") as caught:
            with self.assertRaises(ClusterUnreachable):
                Cluster(**far)
        self.assertNotIn("sesame", str(caught.warning))
        with self.assertRaises(ValueError) as caught:
            Cluster("http://ann:sesame@127.0.0.1:2379")
        self.assertNotIn("sesame", str(caught.exception))

    def test_an_outage_is_told(self):
        with Cluster(self.etcd.endpoint, timeout=0.5) as cluster:
            self.assertIs(cluster.event("x").is_set(), False)
            self.assertIsNone(cluster.outage())
            self.etcd.kill()
            with self.assertRaises(ClusterUnreachable):
                cluster.event("x").is_set()
            lasted, reason = cluster.outage()
            self.assertGreaterEqual(lasted, 0)
            self.assertIn(self.etcd.endpoint, reason)

    def test_control_c_while_nobody_answers(self):
        network = Network(self.etcd)
        self.addCleanup(network.close)
        cluster = f"Cluster('{network.endpoint}', timeout=3600, learn_members=False)"
        for script in (
            f"print('waits', flush=True); input(); {cluster}",
            f"event = {cluster}.event('x'); event.clear(); print('waits', flush=True); input(); event.set()",
        ):
            with self.subTest(script):
                network.mend()
                process = run(script, stdin=subprocess.PIPE)
                self.assertEqual(process.stdout.readline(), "waits\n")
                network.loses = True
                process.stdin.write("\n")
                process.stdin.flush()
                signal_when_asleep(process, signal.SIGINT)
                out, err = process.communicate(timeout=LONG)
                self.assertEqual((process.returncode, out), (-signal.SIGINT, ""), err)
                self.assertIn("KeyboardInterrupt", err)


WAITS = {
    "wait": "event.wait()",
    "timeout": "event.wait(3600)",
    "any": f"wait_any([Event(), {Widest.__name__}(), event])",
    "all": "wait_all([event, Event()], 3600)",
    "asyncio": "__import__('asyncio').run(event.wait_async())",
}


class Processes(OnCluster):
    def script(self, script):
        connect = f"Cluster('{ETCD.endpoint}', namespace='{self.cluster.namespace}', hold_ttl=3600)"
        return run(f"cluster = {connect}\nevent = cluster.event('x')\n{script}")

    def ends(self, process, code, output, error=""):
        out, err = process.communicate(timeout=LONG)
        self.assertEqual((process.returncode, out), (code, output), err)
        self.assertIn(error, err)
        if not error:
            self.assertEqual(err, "")

    def test_control_c_ends_every_wait(self):
        for name, wait in WAITS.items():
            with self.subTest(name):
                process = self.script(f"print('waits', flush=True)\n{wait}")
                self.assertEqual(process.stdout.readline(), "waits\n")
                signal_when_asleep(process, signal.SIGINT)
                self.ends(process, -signal.SIGINT, "", "KeyboardInterrupt")

    def test_a_handler_that_sets_releases_the_wait(self):
        process = self.script(
            "signal.signal(signal.SIGUSR1, lambda *_: event.pulse())\n"
            "print('waits', flush=True)\n"
            "print(event.wait(), event.is_set())"
        )
        process.stdout.readline()
        time.sleep(0.2)
        signal_when_asleep(process, signal.SIGUSR1)
        self.ends(process, 0, "True False\n")

    def test_a_wait_is_refused_where_it_would_block_greenlets(self):
        if importlib.util.find_spec("gevent") is None:
            self.skipTest("gevent is not installed (pip install gevent)")
        process = self.script(
            "import gevent; gevent.sleep(0)\n"
            "for wait in (event.wait, lambda: event.wait(5), lambda: wait_any([Event(), event]), lambda: wait_all([event])):\n"
            "    try: sys.exit(wait())\n"
            "    except RuntimeError as error: assert 'threadpool' in str(error), error\n"
            "assert event.wait(0) is False and wait_any([event], 0) is None\n"
            "event.set()\n"
            "assert event.wait() and wait_any([event]) == 0\n"
            "print('done')"
        )
        self.ends(process, 0, "done\n")

    def test_the_interpreter_ends_while_threads_wait(self):
        for name, wait in WAITS.items():
            with self.subTest(name):
                process = self.script(
                    f"threading.Thread(target=lambda: {wait}, daemon=True).start()\n"
                    "time.sleep(0.05); print('ends')"
                )
                self.ends(process, 0, "ends\n")

    def test_the_interpreter_ends_while_the_password_is_asked_for(self):
        network = Network(ETCD)
        process = run(
            "import warnings; warnings.simplefilter('ignore')\n"
            "asked, is_slow = threading.Event(), threading.Event()\n"
            "apart = {'time': time, 'asked': asked, 'is_slow': is_slow}  # the call keeps these alive, not the cluster\n"
            "exec(\"def password():\\n\"\n"
            "     \"    if not is_slow.is_set(): return 'x'\\n\"\n"
            "     \"    asked.set()\\n\"\n"
            "     \"    while True: time.sleep(0.01)\", apart)\n"
            f"cluster = Cluster('{network.endpoint}', user='x', password=apart['password'], learn_members=False)\n"
            "print('connected', flush=True); input()\n"
            "is_slow.set()\n"
            "wait = cluster.event('x').wait_async()\n"
            "while cluster.outage() is None: time.sleep(0.01)\n"
            "print('outage', flush=True)\n"
            "asked.wait(); print('ends')",
            stdin=subprocess.PIPE,
        )
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "connected\n")
        network.close()
        process.stdin.write("\n")
        process.stdin.flush()
        self.assertEqual(process.stdout.readline(), "outage\n")
        # The connection logs in again.
        network = Network(ETCD, network.port)
        self.addCleanup(network.close)
        out, err = process.communicate(timeout=LONG)
        self.assertEqual((process.returncode, out), (0, "ends\n"), err)

    def test_a_wait_is_dropped_while_its_loop_drops_the_connection(self):
        process = self.script(
            "import _thread\n"
            "from tantara._tantara import Notifier\n"
            "class Listener:\n"
            "    def done(self): return True\n"
            "sys.setswitchinterval(3600)  # other threads run only where the lock is given away\n"
            "notifier, go = Notifier(), _thread.allocate_lock()\n"
            "is_over = True\n"
            "while is_over:  # the first requests may be answered before a poll expects it\n"
            "    request = event.is_set_async()\n"
            "    pendings = [request.cr_frame.f_locals['pending']]\n"
            "    is_over = pendings[0].listen(notifier, Listener())\n"
            "    request.close(); del request\n"
            "notifier.wait()\n"
            "cluster.close(); go.acquire()\n"
            "thread = threading.Thread(target=lambda: (go.acquire(), pendings.clear()), daemon=True)\n"
            "thread.start()\n"
            "go.release()\n"
            "notifier.answer()\n"
            "thread.join()\n"
            "print('ends')"
        )
        self.addCleanup(process.kill)
        self.ends(process, 0, "ends\n")

    def test_a_forked_child_may_use_the_connection_while_it_is_told(self):
        process = self.script(
            "import tantara._cluster, warnings; warnings.simplefilter('ignore')\n"
            "hold = event.hold()\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            f"    signal.alarm({LONG})\n"
            "    for method, act in ((lambda: hold.lost, hold.release), (event.is_set, cluster.close)):\n"
            "        tantara._cluster.ClusterError = lambda why: act() or ClusterError(why)\n"
            "        try:\n"
            "            method()\n"
            "        except ClusterError:\n"
            "            continue\n"
            "        os._exit(1)\n"
            "    os._exit(7)\n"
            "print(os.WEXITSTATUS(os.waitpid(child, 0)[1]))"
        )
        self.addCleanup(process.kill)
        self.ends(process, 0, "7\n")

    def test_a_forked_child_is_told_and_connects_again(self):
        process = self.script(
            "import asyncio, warnings; warnings.simplefilter('ignore')\n"
            "hold = event.hold()\n"
            "wait = event.wait_async(); other = cluster.event('other').wait_async()\n"
            "request = event.is_set_async()\n"
            "async def answer():\n"
            "    return await request\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            f"    signal.alarm({LONG})\n"
            "    try:\n"
            "        assert asyncio.run(answer())  # it was answered before the fork\n"
            "    except ClusterError as error:\n"
            "        assert 'connect again' in str(error), error\n"
            "    for method in (event.is_set, event.set, event.wait, lambda: event.wait(0), lambda: wait_any([event]),\n"
            "                 event.wait_async, event.set_async, event.hold, cluster.list, lambda: hold.lost):\n"
            "        try:\n"
            "            method()\n"
            "            sys.exit('not told')\n"
            "        except ClusterError as error:\n"
            "            assert 'connect again' in str(error), error\n"
            f"    with Cluster('{ETCD.endpoint}', namespace=cluster.namespace) as own:\n"
            "        own.event('y').set()\n"
            "    hold.release(); cluster.close(); wait.close(); other.close()\n"
            "    del hold, event, cluster, wait, other\n"
            "    sys.exit(7)\n"
            "assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7\n"
            "assert event.is_set() and cluster.event('y').is_set() and asyncio.run(wait)\n"
            "assert asyncio.run(answer())\n"
            "other.close(); print('ends')"
        )
        self.ends(process, 0, "ends\n")


if __name__ == "__main__":
    unittest.main()

"""Python's multiprocessing.Event as a contender: the workloads of the other files in this folder.

Arguments: the workload, the processors to be used, whether this is a smoke run; figures go to standard output.
"""

import ctypes
import multiprocessing
import os
import random
import signal
import statistics
import struct
import sys
import time
from mmap import mmap

now = time.perf_counter_ns
Event = multiprocessing.get_context("fork").Event


class Counters:
    """Numbers in shared memory; each has one writer."""

    def __init__(self, count):
        self.memory = mmap(-1, 8 * count)

    def __getitem__(self, index):
        return struct.unpack_from("q", self.memory, 8 * index)[0]

    def __setitem__(self, index, value):
        struct.pack_into("q", self.memory, 8 * index, value)


def start(work):
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() == parent:
            work()
            os._exit(0)
    finally:
        os._exit(101)


def join(child):
    assert os.waitpid(child, 0)[1] == 0, "a process failed"


def kill(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def is_asleep(child):
    with open(f"/proc/{child}/stat") as stat:
        return stat.read().rpartition(") ")[2].startswith("S")


def until_asleep(children):
    looks = 0
    while looks < 2:
        if all(map(is_asleep, children)):
            looks += 1
            time.sleep(0.02)
        else:
            looks = 0
            time.sleep(0.001)


def nanoseconds_each(act):
    count = 100
    while True:
        began = now()
        for _ in range(count):
            act()
        elapsed = now() - began
        if elapsed >= (1e6 if SMOKE else 5e7):
            return elapsed / count
        count *= 2


def uncontended():
    event = Event()

    def set_clear():
        event.set()
        event.clear()

    figures = {"is_set": nanoseconds_each(event.is_set), "set+clear": nanoseconds_each(set_clear)}
    event.set()
    figures["wait when set"] = nanoseconds_each(event.wait)
    return figures


def round_trip():
    rounds = 50 if SMOKE else 10_000
    ping, pong = Event(), Event()

    def answer():
        os.sched_setaffinity(0, CPUS[-1:])
        for _ in range(rounds):
            ping.wait()
            ping.clear()
            pong.set()

    other = start(answer)
    os.sched_setaffinity(0, CPUS[:1])
    until_asleep([other])
    began = now()
    for _ in range(rounds):
        ping.set()
        pong.wait()
        pong.clear()
    elapsed = now() - began
    join(other)
    return {"round trip": elapsed / rounds}


def busy(pause=200_000):
    until = now() + pause
    while now() < until:
        pass


def wake():
    rounds = 20 if SMOKE else 1_500
    ping, pong, answered = Event(), Event(), Counters(1)

    def answer():
        os.sched_setaffinity(0, CPUS[-1:])
        for _ in range(rounds):
            ping.wait()
            ping.clear()
            busy()
            answered[0] = now()
            pong.set()

    other = start(answer)
    os.sched_setaffinity(0, CPUS[:1])
    until_asleep([other])
    took, woken = [], []
    for _ in range(rounds):
        busy()
        began = now()
        ping.set()
        took.append(now() - began)
        pong.wait()
        woken.append(now() - answered[0])
        pong.clear()
    join(other)
    return {"set": statistics.median(took), "until awake": statistics.median(woken)}


def latency():
    rounds = 20 if SMOKE else 10_000
    event, turn = Event(), Counters(2)  # the round that may begin; when `set` was called

    def set_each():
        os.sched_setaffinity(0, CPUS[:1])
        for number in range(1, rounds + 1):
            while turn[0] < number:
                os.sched_yield()
            busy(150_000)
            turn[1] = now()
            event.set()

    setter = start(set_each)
    os.sched_setaffinity(0, CPUS[-1:])
    times = []
    for number in range(1, rounds + 1):
        turn[0] = number
        event.wait()
        times.append(now() - turn[1])
        event.clear()
    join(setter)
    times.sort()
    return {f"p{quantile:g}": times[int(rounds * quantile / 100)] for quantile in (50, 99, 99.9)}


def crowd(processes):
    os.sched_setaffinity(0, CPUS)
    turns = 1 if SMOKE else min(max(8_000 // processes, 8), 32)
    events, out = [Event(), Event()], Counters(processes)

    def sleep(index):
        for turn in range(turns):
            events[turn % 2].wait()
            out[index] = now()

    children = [start(lambda: sleep(index)) for index in range(processes)]
    took, all_out, before = [], [], 0
    for turn in range(turns):
        events[(turn + 1) % 2].clear()
        until_asleep(children)
        began = now()
        assert all(out[index] <= began for index in range(processes))
        events[turn % 2].set()
        took.append(now() - began)
        while any(out[index] < began for index in range(processes)):
            time.sleep(0.0005)
        all_out.append(max(out[index] for index in range(processes)) - began)
    for child in children:
        join(child)
    figures = {"set, per process": took, "all out, per process": all_out}
    return {name: statistics.median(times) / processes for name, times in figures.items()}


def resident():
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return [1024 * int(lines[name].split()[0]) for name in ("RssShmem", "RssAnon")]


def memory():
    count = 20 if SMOKE else 500
    Event().set()
    before = resident()
    kept = [Event() for _ in range(count)]
    for event in kept:
        event.set()
    shared, private = ((after - before) / count for before, after in zip(before, resident()))
    return {"shared-bytes": shared, "private-bytes": private, "waiter-bytes": 0}


SETTER, WAITER, VICTIM, REST, RESTED = range(5)


def comes_true(is_true):
    end = now() + 2_000_000_000
    while not is_true():
        if now() >= end:
            return is_true()
        time.sleep(0.0001)
    return True


def killed():
    kills = 4 if SMOKE else 100
    event, steps = Event(), Counters(5)

    def set_and_clear():
        while True:
            steps[RESTED] = rest = steps[REST]
            if rest % 2:
                time.sleep(0.00005)
                continue
            event.set()
            until = now() + 10_000
            while now() < until:
                pass
            event.clear()
            steps[SETTER] += 1

    def wait():
        while True:
            event.wait()
            steps[WAITER] += 1

    def be_killed(asleep):
        steps[VICTIM] += 1
        while True:
            if not asleep:
                event.set()
                event.clear()
            event.wait()

    def get_on():
        before = steps[SETTER], steps[WAITER]
        return comes_true(lambda: steps[SETTER] >= before[0] + 3 and steps[WAITER] >= before[1] + 3)

    def kill_one(asleep):
        if asleep:
            steps[REST] += 1
            comes_true(lambda: steps[RESTED] == steps[REST])
        before = steps[VICTIM]
        victim = start(lambda: be_killed(asleep))
        comes_true(lambda: steps[VICTIM] > before and (not asleep or is_asleep(victim)))
        until = now() + random.randrange(500_000)
        while now() < until:
            pass
        kill(victim)
        if asleep:
            steps[REST] += 1

    children = [start(set_and_clear), start(wait)]
    assert get_on(), "they hang before anybody was killed"
    survived = 0
    for turn in range(kills):
        kill_one(turn % 2 == 1)
        if not get_on():
            break
        survived += 1
    for child in children:
        kill(child)
    return {"kills": kills, "survived": survived}


WORKLOAD, SMOKE = sys.argv[1], sys.argv[3] == "smoke"
CPUS = [int(cpu) for cpu in sys.argv[2].split(",")]
work, *arguments = WORKLOAD.split("-")
for name, value in globals()[work](*map(int, arguments)).items():
    print(name, value)

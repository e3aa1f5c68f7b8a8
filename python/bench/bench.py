"""tantara compared with CPython's own events and with aiologic: the same work in one run, alternately, as ratios.

    python bench.py [--quick] [--only WORD]

aiologic is left out where it is not installed (pip install aiologic).

Each figure is the median over the rounds. The last column says how many times faster tantara is.
"""

import argparse
import asyncio
import gc
import multiprocessing
import os
import platform
import statistics
import threading
import time
import timeit

import tantara

try:
    import aiologic
except ImportError:
    aiologic = None

now = time.perf_counter_ns
ROUNDS = 7
QUICK = False


def each(statement, **names):
    """Return the nanoseconds of one execution of a statement by timeit, including its loop."""
    timer = timeit.Timer(statement, globals=names)
    count = 20
    while True:
        elapsed = timer.timeit(count)
        if elapsed >= (0.001 if QUICK else 0.02):
            return elapsed / count * 1e9
        count *= 2


def uncontended(make):
    event = make()
    figures = {
        "is_set": each("event.is_set()", event=event),
        "set + clear": each("event.set(); event.clear()", event=event),
        "wait(0) when unset": each("event.wait(0)", event=event),
    }
    event.set()
    figures["wait() when set"] = each("event.wait()", event=event)
    figures["new"] = each("make()", make=make)
    return figures


def pin(cpus):
    os.sched_setaffinity(0, cpus)


def round_trip(make, cpus):
    """Measure the round trip of two threads."""
    rounds = 50 if QUICK else 3_000
    ping, pong = make(), make()
    before = os.sched_getaffinity(0)

    def answer():
        pin(cpus[-1:] if cpus else before)
        for _ in range(rounds):
            ping.wait()
            ping.clear()
            pong.set()

    thread = threading.Thread(target=answer)
    pin(cpus[:1] if cpus else before)
    thread.start()
    began = now()
    for _ in range(rounds):
        ping.set()
        pong.wait()
        pong.clear()
    elapsed = now() - began
    thread.join()
    pin(before)
    return elapsed / rounds


def crowd(make, size):
    """Release sleeping threads repeatedly: time per thread until the last has returned, and until all have ended."""
    size, turns = (8, 2) if QUICK else (size, 5)
    events, out = [make(), make()], [0] * size

    def sleep(index):
        for turn in range(turns):
            events[turn % 2].wait()
            out[index] = now()

    threads = [threading.Thread(target=sleep, args=(index,)) for index in range(size)]
    for thread in threads:
        thread.start()
    times = []
    for turn in range(turns):
        events[(turn + 1) % 2].clear()
        time.sleep(0.01 if QUICK else 0.1)
        began = now()
        events[turn % 2].set()
        while min(out) < began:
            time.sleep(0.0005)
        times.append((max(out) - began) / size)
    for thread in threads:
        thread.join()
    return statistics.median(times[:-1]), times[-1]


def tasks(make, wait, size):
    """Release waiting tasks: the time until all wait, of set(), and until the last has run; and awaiting a set event."""
    size = 20 if QUICK else size

    async def main():
        event = make()
        made = now()
        waits = [asyncio.ensure_future(wait(event)) for _ in range(size)]
        await asyncio.sleep(0)
        begun = now()
        await asyncio.sleep(0.01)
        began = now()
        event.set()
        was_set = now()
        await asyncio.gather(*waits)
        out = now()
        for _ in range(size):
            await wait(event)
        return [time / size for time in (begun - made, was_set - began, out - began, now() - out)]

    return asyncio.run(main())


def one_task(make, wait):
    """Release one waiting task again and again: the time of a set() and its wait, by another task and by a callback."""
    rounds = 50 if QUICK else 10_000

    async def main():
        loop, ping, pong = asyncio.get_running_loop(), make(), make()

        async def answer():
            for _ in range(rounds):
                await wait(ping)
                ping.clear()
                pong.set()

        task = asyncio.ensure_future(answer())
        began = now()
        for _ in range(rounds):
            ping.set()
            await wait(pong)
            pong.clear()
        by_task = now() - began
        await task
        began = now()
        for _ in range(rounds):
            loop.call_soon(ping.set)
            await wait(ping)
            ping.clear()
        return by_task / rounds / 2, (now() - began) / rounds

    return asyncio.run(main())


def round_trip_of_processes(make):
    rounds = 50 if QUICK else 3_000
    ping, pong = make(), make()

    child = os.fork()
    if child == 0:
        for _ in range(rounds):
            ping.wait()
            ping.clear()
            pong.set()
        os._exit(0)
    began = now()
    for _ in range(rounds):
        ping.set()
        pong.wait()
        pong.clear()
    elapsed = now() - began
    os.waitpid(child, 0)
    return elapsed / rounds


def of_threads(make):
    figures = uncontended(make)
    cpus = sorted(os.sched_getaffinity(0))
    figures["round trip, one core"] = round_trip(make, cpus[:1])
    if len(cpus) > 1:
        figures["round trip, two cores"] = round_trip(make, [cpus[0], cpus[-1]])
    figures["round trip, free"] = round_trip(make, None)
    living, ending = crowd(make, 200)
    figures["200 sleeping threads, all out (each)"] = living
    figures["200 sleeping threads that end then, all out (each)"] = ending
    return figures


def of_tasks(make, wait):
    begun, was_set, out, awaited = tasks(make, wait, 10_000)
    by_task, by_callback = one_task(make, wait)
    return {
        "10,000 tasks begin to wait (each)": begun,
        "set() with 10,000 tasks (each)": was_set,
        "10,000 tasks, all out (each)": out,
        "await of a set event": awaited,
        "set() by a task and its wait": by_task,
        "set() by a callback and its wait": by_callback,
    }


def of_processes(make):
    figures = uncontended(make)
    figures["round trip of processes"] = round_trip_of_processes(make)
    return figures


def awaiting(event):
    return event.wait_async()


CONTESTS = [
    ("threading.Event", of_threads, [threading.Event], [tantara.Event]),
    ("asyncio.Event", of_tasks, [asyncio.Event, lambda event: event.wait()], [tantara.Event, awaiting]),
    ("multiprocessing.Event", of_processes, [multiprocessing.get_context("fork").Event], [tantara.SharedEvent]),
]
if aiologic:
    # The event that can be cleared.
    CONTESTS += [
        ("aiologic.REvent, threads", of_threads, [aiologic.REvent], [tantara.Event]),
        (
            "aiologic.REvent, asyncio",
            of_tasks,
            [aiologic.REvent, lambda event: event.with_()],
            [tantara.Event, awaiting],
        ),
    ]


def main():
    global QUICK
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a moment of each; the figures mean nothing")
    parser.add_argument("--only", metavar="WORD", default="", help="only the peers whose name contains the word")
    arguments = parser.parse_args()
    QUICK = arguments.quick
    print(f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} processors, "
          f"{platform.system()} {platform.release()}, {time.strftime('%Y-%m-%d')}\n")
    if aiologic is None:
        print("aiologic is left out: it is not installed (pip install aiologic).\n")
    for name, contest, theirs, ours in CONTESTS:
        if arguments.only not in name:
            continue
        figures = ([], [])
        for _ in range(1 if QUICK else ROUNDS):
            for side, contender in zip(figures, (theirs, ours)):
                gc.collect()
                side.append(contest(*contender))
        print(f"| {name}, ns | theirs | tantara | times faster |\n|---|---:|---:|---:|")
        for figure in figures[0][0]:
            their, our = (statistics.median(round[figure] for round in side) for side in figures)
            print(f"| {figure} | {their:,.0f} | {our:,.0f} | {their / our:.1f} |")
        print()


if __name__ == "__main__":
    main()

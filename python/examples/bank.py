"""The bank scenario: two events, four customers, a pool of threads.

    python bank.py [--customers N] [--workers N] [--pace FACTOR] [--asyncio]

Customers wait for the bank to open, and those who withdraw money also for transactions to open. Threads and, with
--asyncio, tasks use the same events.
"""

import argparse
import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

from tantara import Event, wait_any

STORY = [("Customer 1", True), ("Customer 2", False), ("Customer 3", True), ("Customer 4", True)]

bank_open = Event()
transactions_open = Event()
closed = Event()  # set by Ctrl-C: customers who still wait leave


def visit(name, withdraws, pace):
    """Run a customer in a thread."""
    print(f"{name} is waiting for the bank to open.")
    if wait_any([closed, bank_open]) == 0:
        return
    print(f"{name} entered the bank")
    if withdraws:
        print(f"{name} is waiting for transactions to open.")
        if wait_any([closed, transactions_open]) == 0:
            return
        print(f"{name} is starting their transaction.")
    time.sleep(2 * pace)
    print(f"{name} completed transaction and exited bank" if withdraws else f"{name} has exited bank")


async def visit_async(name, withdraws, pace):
    """Run a customer in a task."""
    print(f"{name} is waiting for the bank to open.")
    await bank_open.wait_async()
    print(f"{name} entered the bank")
    if withdraws:
        print(f"{name} is waiting for transactions to open.")
        await transactions_open.wait_async()
        print(f"{name} is starting their transaction.")
    await asyncio.sleep(2 * pace)
    print(f"{name} completed transaction and exited bank" if withdraws else f"{name} has exited bank")


def manage(pace):
    """Run the manager. With --asyncio it has a thread of its own, because any thread may set an event."""
    print("Bank manager is preparing to open the bank.")
    if closed.wait(2 * pace):
        return
    print("Bank is now open!")
    bank_open.set()
    if closed.wait(3 * pace):
        return
    print("Transactions are now open!")
    transactions_open.set()


def by_threads(customers, workers, pace):
    with ThreadPoolExecutor(workers or len(customers)) as pool:
        visits = [pool.submit(visit, *customer, pace) for customer in customers]
        try:
            manage(pace)
            for done in visits:
                done.result()
        finally:
            closed.set()


async def by_tasks(customers, pace):
    visits = [asyncio.ensure_future(visit_async(*customer, pace)) for customer in customers]
    try:
        await asyncio.get_running_loop().run_in_executor(None, manage, pace)
        await asyncio.gather(*visits)
    finally:
        closed.set()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, metavar="N", help="the number of customers (default: 4)")
    parser.add_argument("--workers", type=int, metavar="N", help="the number of threads (default: one for each customer)")
    parser.add_argument("--pace", type=float, default=1.0, metavar="FACTOR", help="multiply every pause by FACTOR")
    parser.add_argument("--asyncio", action="store_true", help="customers are tasks, not threads")
    options = parser.parse_args()
    if not 0 <= options.pace <= 1_000 or (options.customers or 1) < 1 or (options.workers or 1) < 1:
        parser.error("numbers must be at least 1, and the pace must be between 0 and 1000")
    customers = STORY
    if options.customers:
        customers = [(f"Customer {number}", number % 2 == 1) for number in range(1, options.customers + 1)]
    # The manager needs no worker, so the bank opens even if all workers are busy.
    try:
        if options.asyncio:
            asyncio.run(by_tasks(customers, options.pace))
        else:
            by_threads(customers, options.workers, options.pace)
    except KeyboardInterrupt:
        raise SystemExit("The bank was closed.") from None
    print("All customers have completed their transactions.")


if __name__ == "__main__":
    main()

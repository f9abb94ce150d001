"""Many requests at once from code that is not async: the results come as they finish, in batches."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

#: So many requests are open until as many have come back: what is wrong with all of them is seen at the first.
FIRST = 8
#: Seconds in which requests that are under way may still come back after another has failed for good.
GRACE = 3.0
#: Seconds between the first requests. Sent all at once they would come back all at once, again and again, and each would wait
#: for the reading of all others: at 64 in flight and 200 ms that costs a third of the time.
APART = 0.003


def in_flight(
    jobs: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    *,
    at_most: int,
    batch: int,
    flush: float,
    close: Callable[[], Awaitable[None]],
    first: int = FIRST,
) -> Iterator[list[T]]:
    """Run `jobs` with `at_most` open at a time; yield what has finished when it is `batch` results or `flush` seconds old.

    Until `first` have finished no more than `first` are open. Jobs start in order and finish in any. A job that raises ends
    everything, and so does Ctrl-C: what has finished is yielded first. `close` is awaited at the end, whatever it is. While the
    caller is busy with a batch nothing new is sent.
    """
    waiting = iter(jobs)
    open_tasks: set[asyncio.Task[T]] = set()
    ended: list[asyncio.Task[T]] = []
    wake = asyncio.Event()
    started, finished, stopped = 0, 0, False
    handler = signal.getsignal(signal.SIGINT)

    def end(task: asyncio.Task[T]) -> None:
        ended.append(task)
        wake.set()

    def stop() -> None:
        nonlocal stopped
        stopped = True
        wake.set()

    async def step() -> tuple[list[T], BaseException | None]:
        """What has finished since the last step, and what a job raised."""
        nonlocal started, finished
        loop = asyncio.get_running_loop()
        start = loop.time()
        done: list[T] = []
        failed: BaseException | None = None
        if here := callable(handler) and threading.current_thread() is threading.main_thread():
            # else the handler's exception would come up in whatever task is running, a library's own too
            loop.add_signal_handler(signal.SIGINT, stop)
        try:
            while not (failed or stopped) and len(done) < batch and not (done and loop.time() - start >= flush):
                allowed = at_most if finished >= first else min(at_most, first)
                while len(open_tasks) < allowed and (job := next(waiting, None)) is not None:
                    task = asyncio.create_task(job())
                    task.add_done_callback(end)
                    open_tasks.add(task)
                    started += 1
                    if started < at_most:
                        await asyncio.sleep(APART)
                if not open_tasks:
                    break
                if not ended:
                    wake.clear()
                    timer = loop.call_later(flush, wake.set)
                    await wake.wait()
                    timer.cancel()
                finished += len(ended)
                for task in ended:
                    open_tasks.discard(task)
                    failed = failed or task.exception()
                    if task.exception() is None:
                        done.append(task.result())
                ended.clear()
            if failed and open_tasks:  # what is under way may have been paid for
                ready, _ = await asyncio.wait(open_tasks, timeout=GRACE)
                done += [task.result() for task in ready if task.exception() is None]
                open_tasks.difference_update(ready)
        finally:
            if here:
                loop.remove_signal_handler(signal.SIGINT)
                signal.signal(signal.SIGINT, handler)
        return done, failed

    with asyncio.Runner() as runner:
        try:
            while True:
                done, failed = runner.run(step())
                if done:
                    yield done
                if failed is not None:
                    raise failed
                if stopped and callable(handler):
                    handler(signal.SIGINT, None)
                if not done and not open_tasks:
                    return
        finally:
            for task in open_tasks:
                task.cancel()
            runner.run(_closed(close))


async def _closed(close: Callable[[], Awaitable[None]]) -> None:
    await close()

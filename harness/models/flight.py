"""Many requests at once from code that is not async: the results come as they finish, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, TypeVar

from harness.errors import UserError

T = TypeVar("T")


def in_flight(
    jobs: Iterable[Callable[[], Coroutine[Any, Any, T]]],
    *,
    at_most: int,
    batch: int,
    flush: float,
    close: Callable[[], Awaitable[None]],
) -> Iterator[list[T]]:
    """Run `jobs` with `at_most` open at a time; yield what has finished when it is `batch` results or `flush` seconds old.

    Jobs start in order and finish in any. A job that raises UserError ends everything: what has finished is yielded, then it
    is raised. `close` is awaited at the end, whatever it is. While the caller is busy with a batch nothing new is sent.
    """
    waiting = iter(jobs)
    open_tasks: set[asyncio.Task[T]] = set()

    async def step() -> tuple[list[T], UserError | None]:
        clock = asyncio.get_running_loop().time
        start = clock()
        done: list[T] = []
        failed: UserError | None = None
        while failed is None and len(done) < batch and not (done and clock() - start >= flush):
            while len(open_tasks) < at_most and (job := next(waiting, None)) is not None:
                open_tasks.add(asyncio.create_task(job()))
            if not open_tasks:
                break
            finished, _ = await asyncio.wait(open_tasks, timeout=flush, return_when=asyncio.FIRST_COMPLETED)
            open_tasks.difference_update(finished)
            for task in finished:
                error = task.exception()
                if error is None:
                    done.append(task.result())
                elif isinstance(error, UserError):
                    failed = error
                else:
                    raise error
        return done, failed

    with asyncio.Runner() as runner:
        try:
            while True:
                done, failed = runner.run(step())
                if done:
                    yield done
                if failed is not None:
                    raise failed
                if not done and not open_tasks:
                    return
        finally:
            for task in open_tasks:
                task.cancel()
            runner.run(_closed(close))


async def _closed(close: Callable[[], Awaitable[None]]) -> None:
    await close()

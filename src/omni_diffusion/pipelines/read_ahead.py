"""Make the next items on a thread while the present one is being used."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

_END = object()


def read_ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """The same items in the same order, up to `depth` of them made before they are asked for.

    An exception of `items` is raised where it would have been.

    Args:
        items: iterated on a thread of its own, one item after another.
        depth: how many may wait; memory is bounded by it.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting: deque[Future[object]] = deque()
        try:
            while True:
                while len(waiting) <= depth:
                    waiting.append(thread.submit(next, iterator, _END))
                item = waiting.popleft().result()
                if item is _END:
                    return
                yield item  # type: ignore[misc] # it came out of `items`
        finally:
            for future in waiting:
                future.cancel()

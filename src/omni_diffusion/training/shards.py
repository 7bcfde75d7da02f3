"""Shards that are open now, and the ones that will be needed next.

Local shards are mapped when they are asked for. Shards of an object store are fetched by a thread
of their own: first what is needed now, then, as long as the cache's limit allows, what the plan
needs next. A shard that is no longer wanted is unmapped, and its copy may go.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Self

from omni_diffusion.corpus.cache import ShardCache
from omni_diffusion.corpus.shard import ShardReader
from omni_diffusion.corpus.sidecar import tar_name
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import OmniError

Wanted = tuple[int, int]
"""A source's position and a shard's number."""


class OpenShards:
    """Readers of the shards of several corpora. A context manager: leaving it ends its thread.

    Args:
        storages: of the corpora.
        cache: for those that are remote.
    """

    def __init__(self, storages: Sequence[Storage], cache: ShardCache | None) -> None:
        self._storages, self._cache = list(storages), cache
        self._readers: dict[Wanted, ShardReader] = {}
        self._faults: dict[Wanted, OmniError] = {}
        self._now: list[Wanted] = []
        self._next: list[Wanted] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread: threading.Thread | None = None
        if not all(storage.is_local for storage in self._storages):
            self._thread = threading.Thread(target=self._fetch_ahead, daemon=True)
            self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop fetching, once the transfer under way has ended, and forget all readers."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread:
            self._thread.join()
        self._readers.clear()

    def want(self, now: Sequence[Wanted], later: Sequence[Wanted] = ()) -> None:
        """Say what is needed, and what will be; everything else is given up."""
        with self._changed:
            self._now, self._next = list(now), list(later)
            keep = {*now, *later}
            self._readers = {key: r for key, r in self._readers.items() if key in keep}
            self._faults = {}
            self._changed.notify_all()

    def reader(self, key: Wanted) -> ShardReader:
        """A shard that `want` named, waiting for it where it is still on its way.

        Raises:
            StorageError: it is not there, or the store refused.
            CorpusError: it is empty.
        """
        source, number = key
        if key in self._readers:
            return self._readers[key]
        storage = self._storages[source]
        if storage.is_local:
            self._readers[key] = ShardReader(storage.path(tar_name(number)))
            return self._readers[key]
        with self._changed:
            if key not in self._now:
                self._now.insert(0, key)
                self._changed.notify_all()
            while key not in self._readers and key not in self._faults:
                self._changed.wait()
            if key in self._faults:
                raise self._faults[key]
            return self._readers[key]

    def _fetch_ahead(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (key := self._most_urgent()) is None:
                    self._changed.wait()
                if self._closed or key is None:
                    return
            self._fetch(key)

    def _fetch(self, key: Wanted) -> None:
        assert self._cache is not None  # a remote source without a cache was refused
        try:
            reader = self._cache.reader(self._storages[key[0]], tar_name(key[1]))
        except OmniError as error:
            with self._changed:
                self._faults[key] = error
                self._changed.notify_all()
            return
        with self._changed:
            if key in self._now or key in self._next:
                self._readers[key] = reader
            self._changed.notify_all()

    def _most_urgent(self) -> Wanted | None:
        """What to fetch now; the future only while there is room for one more like the largest."""
        for key in self._now:
            if self._is_missing(key):
                return key
        sizes = [
            len(reader.data)
            for (source, _), reader in self._readers.items()
            if not self._storages[source].is_local
        ]
        limit = self._cache.limit_bytes if self._cache else 0
        if sum(sizes) + max(sizes, default=0) > limit:
            return None
        return next((key for key in self._next if self._is_missing(key)), None)

    def _is_missing(self, key: Wanted) -> bool:
        remote = not self._storages[key[0]].is_local
        return remote and key not in self._readers and key not in self._faults

"""Remote shards kept on the local disk, up to a size, least recently used first out.

The cache owns one folder of its own inside the folder it is given and touches nothing else: not
the shards of a local corpus, not files that somebody put beside it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from pathlib import Path
from typing import Any

from omni_diffusion.corpus.shard import ShardReader
from omni_diffusion.corpus.storage import TEMPORARY, Storage
from omni_diffusion.errors import CorpusError, StorageError

FOLDER = "omni-diffusion-shards"

_ABANDONED_S = 24 * 3600
"""Age at which a half-made download counts as left by a killed process."""


class ShardCache:
    """Local copies of remote files. Safe for several threads and processes.

    Args:
        folder: where copies may be kept; a sub-folder `omni-diffusion-shards` is made in it.
        limit_bytes: size that the copies may take together. One file that is larger than the
            limit is still kept until the next one comes.
    """

    def __init__(self, folder: str | os.PathLike[str], limit_bytes: int) -> None:
        self.folder = Path(folder) / FOLDER
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """A cache can be handed to another process, where it uses the same folder."""
        return {"folder": self.folder, "limit_bytes": self.limit_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    def reader(self, storage: Storage, name: str) -> ShardReader:
        """A remote tar, mapped from its local copy: it stays whole whatever is dropped later.

        Raises:
            StorageError: there is no such file, or the store or the disk refused.
            CorpusError: it is empty.
        """
        path, size = self._place(storage, name)
        with self._lock:
            if _touch(path):
                with contextlib.suppress(CorpusError):  # another process has just dropped it
                    return ShardReader(path, storage.path(name))
            return self._download(storage, name, path, size)

    def fetch(self, storage: Storage, name: str) -> Path:
        """Local path of a remote file, downloaded where it is not there yet.

        The path holds until somebody needs the room; `reader` gives what holds longer.

        Raises:
            StorageError: there is no such file, or the store or the disk refused.
            CorpusError: it is empty.
        """
        path, size = self._place(storage, name)
        with self._lock:
            if not _touch(path):
                self._download(storage, name, path, size)
        return path

    def _place(self, storage: Storage, name: str) -> tuple[Path, int]:
        """Where the copy of a file is or would be, and the file's size.

        Its name says URL, size and what the store says of the version (its ETag or time), so a
        shard that was replaced is fetched again.
        """
        version = storage.version(name)
        if version is None:
            raise StorageError(storage.path(name), "there is no such file")
        size, mark = version
        digest = hashlib.sha256(f"{storage.path(name)}|{size}|{mark}".encode()).hexdigest()[:32]
        return self.folder / f"{digest}.shard", size

    def _download(self, storage: Storage, name: str, path: Path, size: int) -> ShardReader:
        """Fetch a file; it is mapped before others can see it and drop it."""
        self._make_room(size)
        local = Storage(self.folder)
        with local.temporary(path.name) as part:
            storage.download(name, part)
            reader = ShardReader(part, storage.path(name))
            local.publish(part, path.name, replace=True)
        return reader

    def used_bytes(self) -> int:
        """Size of all copies together."""
        return sum(size for _, size, _ in self._copies())

    def _copies(self) -> list[tuple[float, int, Path]]:
        copies = []
        for path in self.folder.glob("*.shard"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another process has just dropped it
                continue
            copies.append((status.st_mtime, status.st_size, path))
        return sorted(copies)

    def _make_room(self, size: int) -> None:
        for part in self.folder.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(FileNotFoundError):
                if part.stat().st_mtime < time.time() - _ABANDONED_S:
                    part.unlink()
        copies = self._copies()
        excess = sum(held for _, held, _ in copies) + size - self.limit_bytes
        for _, held, path in copies:
            if excess <= 0:
                return
            # A reader that has mapped the file keeps its bytes; only the name goes.
            path.unlink(missing_ok=True)
            excess -= held


def _touch(path: Path) -> bool:
    """Whether a copy is there; its modification time says when it was last used."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    return True

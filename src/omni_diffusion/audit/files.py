"""The files of a corpus as DuckDB sees them: by short names, read-only, and no others.

DuckDB runs without access to files. What it may read comes through this file system, under URLs
such as `corpus://here/index.parquet`, whether the corpus lies on a disk or in an object store.
DuckDB's own lists of allowed paths do not do: what may be read may also be written, and a SELECT
can write (`WITH x AS (COPY ... TO ...) SELECT ...` overwrote an allowed file in DuckDB 2.0). Here
nothing can be opened for writing, so no statement can change a corpus.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fsspec.spec import AbstractFileSystem

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import OmniError, StorageError

PROTOCOL = "corpus"
URL = f"{PROTOCOL}://"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a file really is: a storage root and a name below it."""

    storage: Storage
    name: str

    def __str__(self) -> str:
        return self.storage.path(self.name)


class CorpusFiles(AbstractFileSystem):  # type: ignore[misc]
    """An fsspec file system of the files that were added to it, and no folder.

    Attributes:
        fault: the last error of a store, which DuckDB would wrap beyond recognition.
    """

    protocol = PROTOCOL
    cachable = False

    def __init__(self) -> None:
        super().__init__(skip_instance_cache=True)
        self._places: dict[str, Place] = {}
        self.fault: OmniError | None = None

    def add(self, name: str, place: Place) -> str:
        """Make a file readable; returns its URL. A name may be added again for the same place."""
        self._places[name] = place
        return URL + name

    @property
    def places(self) -> Mapping[str, Place]:
        """What every URL stands for."""
        return {URL + name: place for name, place in self._places.items()}

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return path.removeprefix(URL)

    def _place(self, path: str) -> Place:
        try:
            return self._places[self._strip_protocol(path)]
        except KeyError:
            raise FileNotFoundError(path) from None

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size of a file; DuckDB asks for it before it opens one."""
        place = self._place(path)
        return {"name": path, "size": self._size(place), "type": "file"}

    def exists(self, path: str, **_: Any) -> bool:
        """Whether the file was added."""
        return self._strip_protocol(path) in self._places

    def glob(self, path: str, **_: Any) -> list[str]:
        """The file itself: names are never patterns here."""
        return [path] if self.exists(path) else []

    def modified(self, path: str) -> datetime:
        """A fixed time: files do not change while an audit is open."""
        self._place(path)
        return datetime(1980, 1, 1, tzinfo=UTC)

    def open(self, path: str, mode: str = "rb", **_: Any) -> SharedFile:
        """A file for reading.

        Raises:
            PermissionError: any other mode was asked for.
        """
        if mode != "rb":
            raise PermissionError(f"{path}: a corpus is only read")
        place = self._place(path)
        return SharedFile(self, place, self._size(place))

    def read(self, place: Place, start: int, end: int) -> bytes:
        """Bytes of a file, remembering why a store refused."""
        try:
            return place.storage.read(place.name, start, end)
        except OmniError as error:
            self.fault = error
            raise

    def _size(self, place: Place) -> int:
        try:
            size = place.storage.size(place.name)
            if size is None:
                raise StorageError(place, "there is no such file")
        except OmniError as error:
            self.fault = error
            raise
        return size


class SharedFile:
    """An open file with a position for each thread.

    DuckDB's threads share one file and call `seek` and `read` one after the other, so with one
    position they would read each other's bytes. The operating system's thread number is the key:
    Python's own thread-local data does not outlive a call from a foreign thread.
    """

    def __init__(self, files: CorpusFiles, place: Place, size: int) -> None:
        self._files, self._place, self.size = files, place, size
        self._positions: dict[int, int] = {}
        self._local = Path(place.storage.path(place.name)) if place.storage.is_local else None
        self._file = self._local.open("rb", buffering=0) if self._local else None

    def seek(self, offset: int, whence: int = 0) -> int:
        """Set this thread's position: from the start (0), from itself (1), from the end (2)."""
        base = (0, self.tell(), self.size)[whence]
        self._positions[threading.get_ident()] = base + offset
        return base + offset

    def tell(self) -> int:
        """This thread's position."""
        return self._positions.get(threading.get_ident(), 0)

    def read(self, size: int = -1) -> bytes:
        """The next bytes of this thread."""
        start = self.tell()
        size = max(0, self.size - start) if size < 0 else min(size, max(0, self.size - start))
        if not size:
            return b""
        if self._file:
            data = os.pread(self._file.fileno(), size, start)
        else:
            data = self._files.read(self._place, start, start + size)
        self._positions[threading.get_ident()] = start + len(data)
        return data

    def close(self) -> None:
        """Release the file."""
        if self._file:
            self._file.close()

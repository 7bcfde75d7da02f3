"""Folders and object stores behind six verbs: list, size, read, open, publish, remove.

Local paths use the operating system; any other URL (`s3://`, `gs://`, `hf://`, `memory://`) uses
fsspec. A file appears whole or not at all:

* locally it is written under a temporary name beside its target, synced, and linked into place;
* remotely it is built in a local temporary file and sent as one object, which stores show only
  once it is complete (an interrupted multi-part upload stays invisible).
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from omni_diffusion.errors import DiskFullError, OmniError, ShardConflictError, StorageError

TEMPORARY = ".tmp-"
"""Files whose names begin so are being written, or were left by a writer that was killed."""

_CHUNK = 1 << 20
_READ_AHEAD = 16 << 20
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PUT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed file: its name relative to the root, and its size in bytes."""

    name: str
    size: int


class Storage:
    """Everything below one folder or URL prefix. Names are relative and use `/`.

    Args:
        root: a local path or a URL that fsspec knows.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.fspath(root).rstrip("/") or "/"
        if self.root.startswith("file://"):
            self.root = self.root.removeprefix("file://")
        self._client: tuple[int, Any] | None = None

    @property
    def is_local(self) -> bool:
        """Whether the operating system can open the files directly."""
        return "://" not in self.root

    def path(self, name: str = "") -> str:
        """Full path or URL of a file."""
        return f"{self.root}/{name}" if name else self.root

    def list(self, folder: str = "") -> list[Entry]:
        """Files below `folder`, at any depth, sorted by name; [] where it does not exist.

        Raises:
            StorageError: the store refused.
        """
        with self._named(folder):
            return sorted(self._walk(folder), key=lambda entry: entry.name)

    def size(self, name: str) -> int | None:
        """Bytes of one file, or None where there is none.

        Raises:
            StorageError: the store refused.
        """
        version = self.version(name)
        return None if version is None else version[0]

    def version(self, name: str) -> tuple[int, str] | None:
        """Bytes of one file and a text that changes when the file does; None where there is none.

        Raises:
            StorageError: the store refused.
        """
        with self._named(name):
            try:
                if self.is_local:
                    status = Path(self.path(name)).stat()
                    is_file, size = stat.S_ISREG(status.st_mode), status.st_size
                    mark = str(status.st_mtime_ns)
                else:
                    info = self._remote.info(self.path(name))
                    is_file, size = info["type"] == "file", int(info["size"] or 0)
                    # Stores say it in different words: an ETag, a time, a generation.
                    mark = repr(sorted((k, str(v)) for k, v in info.items()))
            except (FileNotFoundError, NotADirectoryError):
                return None
        return (size, mark) if is_file else None

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """Bytes `start` to `end` of a file (the whole file by default).

        Raises:
            StorageError: there is no such file, or the store refused.
        """
        with self._named(name):
            if not self.is_local:
                return self._read_remote(name, start, end)
            with Path(self.path(name)).open("rb") as file:
                file.seek(start or 0)
                return file.read(-1 if end is None else end - (start or 0))

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A seekable binary file for reading, open for the time of the block.

        Raises:
            StorageError: there is no such file, or the store refused, also later in the block.
        """
        with self._named(name):
            if self.is_local:
                with Path(self.path(name)).open("rb") as file:
                    yield file
                return
            size = self.size(name)
            if size is None:
                raise FileNotFoundError(name)
            with io.BufferedReader(RangedFile(self, name, size), _READ_AHEAD) as file:
                yield file

    @contextmanager
    def temporary(self, name: str) -> Iterator[Path]:
        """A local path to write `name` to before it is published; removed afterwards.

        For local roots it lies beside the target, so that publishing it is one atomic step.

        Raises:
            StorageError: names the target, for any failure to write in the block.
        """
        with self._named(name):
            folder = Path(self.path(name)).parent if self.is_local else None
            if folder:
                folder.mkdir(parents=True, exist_ok=True)
            scratch = folder or Path(tempfile.gettempdir())
            path = scratch / f"{TEMPORARY}{Path(name).name}-{uuid.uuid4().hex}"
            try:
                yield path
            finally:
                path.unlink(missing_ok=True)

    def publish(self, path: Path, name: str, *, replace: bool = False) -> None:
        """Make a finished local file appear as `name`, whole.

        Args:
            path: a file made in `temporary(name)`.
            name: where it shall be.
            replace: take the place of an older file. Otherwise an existing file is kept: that is
                success where its bytes are the same, and a conflict where they are not.

        Raises:
            ShardConflictError: another file of that name holds other bytes.
            StorageError: the store refused; nothing has appeared.
        """
        with self._named(name):
            if not self.is_local:
                self._put(path, name, replace=replace)
                return
            target = Path(self.path(name))
            with path.open("rb") as file:
                os.fsync(file.fileno())
            if replace:
                path.replace(target)
            else:
                self._link(path, target, name)
            sync_folder(target.parent)

    def publish_bytes(self, data: bytes, name: str, *, replace: bool = False) -> None:
        """`publish` of bytes that are at hand."""
        with self.temporary(name) as path:
            path.write_bytes(data)
            self.publish(path, name, replace=replace)

    def download(self, name: str, path: Path) -> None:
        """Copy a file to a local path.

        Raises:
            StorageError: there is no such file, or the store refused.
        """
        with self.open(name) as source, path.open("wb") as target:
            while chunk := source.read(_CHUNK):
                target.write(chunk)

    def remove(self, name: str) -> None:
        """Delete one file; no error where there is none.

        Raises:
            StorageError: the store refused.
        """
        with self._named(name):
            if self.is_local:
                Path(self.path(name)).unlink(missing_ok=True)
            elif self._remote.exists(self.path(name)):
                self._remote.rm_file(self.path(name))

    @property
    def _remote(self) -> Any:
        """The store's client: one a process, since its threads do not survive a fork."""
        if self._client is None or self._client[0] != os.getpid():
            import fsspec

            # Listings must show what other writers have just published.
            client = fsspec.url_to_fs(self.root, use_listings_cache=False)[0]
            self._client = os.getpid(), client
        return self._client[1]

    def _read_remote(self, name: str, start: int | None, end: int | None) -> bytes:
        """A part of an object; clients check that a whole one is complete, but not a part."""
        data: bytes = self._remote.cat_file(self.path(name), start=start, end=end)
        if (start is None and end is None) or len(data) == (end or -1) - (start or 0):
            return data
        size = self.size(name) or 0
        wanted = max(0, min(size if end is None else end, size) - (start or 0))
        if len(data) != wanted:
            reason = f"{len(data)} of {wanted} bytes came, of a part from byte {start or 0} on"
            raise StorageError(self.path(name), reason)
        return data

    def _walk(self, folder: str) -> Iterator[Entry]:
        if not self.is_local:
            root = self._remote._strip_protocol(self.root)
            for path, info in self._remote.find(self.path(folder), detail=True).items():
                yield Entry(path[len(root) :].lstrip("/"), int(info["size"]))
            return
        root = Path(self.root)
        for path in (root / folder).rglob("*"):
            with suppress(FileNotFoundError):  # somebody's temporary file, published by now
                status = path.stat()
                if stat.S_ISREG(status.st_mode):
                    yield Entry(path.relative_to(root).as_posix(), status.st_size)

    def _link(self, path: Path, target: Path, name: str) -> None:
        try:
            os.link(path, target)
        except FileExistsError:
            self._check_same(path, name)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
                raise
            # A file system without hard links (FAT, some network mounts): the check and the
            # rename are two steps there, so only one writer may be at work.
            if target.exists():
                self._check_same(path, name)
            else:
                path.replace(target)

    def _put(self, path: Path, name: str, *, replace: bool) -> None:
        mode = "overwrite" if replace else "create"
        for attempt in range(_PUT_ATTEMPTS):
            try:
                self._remote.put_file(str(path), self.path(name), mode=mode)
                return
            except FileExistsError:
                self._check_same(path, name)
                return
            except FileNotFoundError:
                # No such upload: the answer to its end was lost, and the client has asked again.
                if replace or self.size(name) is None:
                    raise
                self._check_same(path, name)
                return
            except OSError as error:
                # S3's answer while another writer is putting the same object: ask again.
                conflict = "ConditionalRequestConflict" in str(error)
                if not conflict or attempt == _PUT_ATTEMPTS - 1:
                    raise
                time.sleep(0.1 * 2**attempt)

    def _check_same(self, path: Path, name: str) -> None:
        with path.open("rb") as ours, self.open(name) as theirs:
            while True:
                chunk = ours.read(_CHUNK)
                if chunk != theirs.read(_CHUNK):
                    raise ShardConflictError(
                        self.path(name),
                        "exists already with other bytes: another writer, or a run with another "
                        "recipe or input, made it; write to an empty folder or remove it first",
                    )
                if not chunk:
                    return

    @contextmanager
    def _named(self, name: str) -> Iterator[None]:
        """Turn what the system or a store's client raises into an error that names the file."""
        try:
            yield
        except OmniError:
            raise
        except FileNotFoundError:
            missing = "file" if self.is_local else "file or bucket"
            raise StorageError(self.path(name), f"there is no such {missing}") from None
        except OSError as error:
            kind = DiskFullError if error.errno in NO_ROOM else StorageError
            raise kind(self.path(name), _why(error)) from error
        except Exception as error:
            # Clients of object stores have exception families of their own.
            if self.is_local:
                raise
            raise StorageError(self.path(name), _why(error)) from error


class RangedFile(io.RawIOBase):
    """A file of a storage of which only what is read is transferred, without read-ahead.

    Args:
        storage: where it is.
        name: its name there.
        size: its bytes.
    """

    def __init__(self, storage: Storage, name: str, size: int) -> None:
        self._storage, self._name, self._size, self._at = storage, name, size, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Go to a place relative to beginning, current place or end."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer in one request, as far as the file goes.

        Raises:
            StorageError: the store refused.
        """
        end = min(self._at + len(buffer), self._size)
        data = self._storage.read(self._name, self._at, end) if self._at < end else b""
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def _why(error: Exception) -> str:
    if isinstance(error, ImportError):
        return f"{error}; install the extra for this kind of URL, e.g. omni-diffusion[s3]"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return f"the disk is full ({error.strerror})"
    return str(error) or type(error).__name__


def sync_folder(folder: Path) -> None:
    """Make renames in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

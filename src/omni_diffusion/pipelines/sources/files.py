"""Which files a recipe's path means, in an order that no listing decides."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsspec.utils import glob_translate

from omni_diffusion.corpus.storage import Entry, Storage
from omni_diffusion.errors import SourceError

_MAGIC = re.compile(r"[*?[]")


@dataclass(frozen=True, slots=True)
class File:
    """One input file: its absolute path or URL, and its size in bytes."""

    path: str
    size: int

    @property
    def name(self) -> str:
        """Its last component."""
        return self.path.rpartition("/")[2]


def absolute(path: str) -> str:
    """A path that means the same in every process; URLs and symbolic links stay as they are."""
    path = path.removeprefix("file://")
    return path if "://" in path else os.path.normpath(Path(path).expanduser().absolute())


def locate(path: str) -> tuple[Storage, str]:
    """The storage of a file's folder, and the file's name in it."""
    folder, _, name = absolute(path).rpartition("/")
    return Storage(folder or "/"), name


def find_files(paths: str | Sequence[str], suffixes: tuple[str, ...]) -> list[File]:
    """All files that the paths of a recipe mean.

    Args:
        paths: files, folders (searched at every depth) and globs (`*`, `?`, `[ab]`, `**`), local
            or URLs.
        suffixes: endings of the files wanted in folders; a file or glob is taken at its word.

    Returns:
        The entries in the order of the recipe, the files of each sorted by name.

    Raises:
        SourceError: an entry means no file, or a file is meant twice.
        StorageError: a store refused.
    """
    found = [file for path in _several(paths) for file in _expand(absolute(path), suffixes)]
    seen: set[str] = set()
    for file in found:
        if file.path in seen:
            raise SourceError(f"{file.path}: is meant by two entries of the path")
        seen.add(file.path)
    return found


def check_unchanged(path: str, size: int) -> tuple[Storage, str]:
    """`locate` a file that was planned with this size.

    Raises:
        SourceError: it is not there any more, or is another.
        StorageError: the store refused.
    """
    storage, name = locate(path)
    now = storage.size(name)
    if now != size:
        found = "is gone" if now is None else f"has {now} bytes now"
        raise SourceError(f"{path}: had {size} bytes when the job was planned and {found}")
    return storage, name


def _several(paths: str | Sequence[str]) -> Sequence[str]:
    return [paths] if isinstance(paths, str) else paths


def _expand(path: str, suffixes: tuple[str, ...]) -> list[File]:
    storage, name = locate(path)
    size = storage.size(name)
    if size is not None:
        return [File(path, size)]
    magic = _MAGIC.search(path)
    if magic:
        root = path[: magic.start()].rpartition("/")[0]
        wanted = re.compile(glob_translate(path[len(root) + 1 :]))
        entries = [e for e in Storage(root or "/").list() if wanted.match(e.name)]
    else:
        root = path.rstrip("/")
        entries = [e for e in Storage(root).list() if e.name.endswith(suffixes)]
    files = [File(f"{root}/{entry.name}", entry.size) for entry in entries if _is_visible(entry)]
    if not files:
        kind = "" if magic else f" {' or '.join(suffixes)}"
        raise SourceError(f"{path}: there is no such{kind} file")
    return files


def _is_visible(entry: Entry) -> bool:
    """Names with a leading dot are caches, and files that are being written."""
    return not any(part.startswith(".") for part in entry.name.split("/"))

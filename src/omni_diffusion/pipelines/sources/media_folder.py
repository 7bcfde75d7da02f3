"""Media that a data set names by path, below one folder or URL that the recipe names."""

from __future__ import annotations

import posixpath
from pathlib import Path

from omni_diffusion.corpus.media import MAX_MEMBER_BYTES
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.sources.files import absolute
from omni_diffusion.pipelines.sources.rows import Refusal

_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 4000


class MediaFolder:
    """Reads files below one root, and nothing else: the paths come out of the data.

    Args:
        root: a folder or URL.

    Raises:
        SourceError: a local root is not there.
    """

    def __init__(self, root: str) -> None:
        self._storage = Storage(absolute(root))
        if self._storage.is_local and not Path(self._storage.root).is_dir():
            raise SourceError(f"media_root {root}: there is no such folder")

    def read(self, path: str) -> bytes:
        """The bytes of one file.

        Args:
            path: relative to the root; below it also with the whole root in front.

        Raises:
            Refusal: there is no such file, it is too large, or the path leads elsewhere.
            StorageError: the store refused.
        """
        name = self._name(path)
        size = self._storage.size(name)
        if size is None:
            raise Refusal("missing media", f"no file {path}")
        if size > MAX_MEMBER_BYTES:
            raise Refusal("media too large", f"{path} has {size} bytes")
        return self._storage.read(name)

    def _name(self, path: str) -> str:
        name = posixpath.normpath(path.removeprefix(f"{self._storage.root}/"))
        if name.startswith(("/", "../")) or name in (".", "..") or "://" in path[:20]:
            raise Refusal("media outside its root", f"{path} is not below {self._storage.root}")
        try:
            parts = [part.encode() for part in name.split("/")]
        except UnicodeEncodeError:
            raise Refusal("unusable media path", f"{path!r} is not valid text") from None
        too_long = max(map(len, parts)) > _MAX_NAME_BYTES or len(name) > _MAX_PATH_BYTES
        if too_long or "\0" in name:
            raise Refusal("unusable media path", f"{path[:100]!r} cannot be a file's name")
        return name


def require(folder: MediaFolder | None, path: str) -> MediaFolder:
    """The folder to read a path from.

    Raises:
        SourceError: the recipe names none, so no such record can ever be read.
    """
    if folder is None:
        raise SourceError(f"the data names a file ({path}), but the recipe has no media_root")
    return folder

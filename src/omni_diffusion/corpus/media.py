"""Pictures, sounds and texts from ordinary WebDataset tars: ours and other people's.

A sample is a run of neighbouring members that share a name up to the first dot. A layout says
which of them are wanted, under which extensions they may come, and which must be there:

    OURS          KEY.json (a record), KEY.image0.jpg, KEY.audio0.flac, ...
    IMG2DATASET   KEY.jpg, KEY.txt, KEY.json

Python's `tarfile` reads the archives, with its silent endings turned into errors. Every run of
members comes out as one sample or one reject: those with links, members that would leave the
archive, duplicates and stray pieces are named, where `webdataset` passes over them in silence
(measured: `docs/decisions.md`).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import IO, Any, NamedTuple

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

MAX_MEMBER_BYTES = 1 << 30
"""A larger member is rejected instead of being read into memory."""

_MAX_HEADER_BYTES = 1 << 20
"""Names and PAX records of one member; `tarfile` takes them into memory unasked."""

_MAX_CLAIM = 1 << 50
_CHUNK = 1 << 20
_OPENERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_EXTENSIONS = (tarfile.XHDTYPE, tarfile.XGLTYPE, b"X", b"L", b"K")  # X: Solaris's PAX header
_DAMAGE = (tarfile.TarError, EOFError, ValueError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaLayout:
    """Which members of a foreign tar stand for which fields.

    Attributes:
        fields: field name to the extensions under which it may come, without the first dot, best
            first. A `#` in both stands for a number: `{"image#": ("image#.jpg", "image#.png")}`.
        required: fields without which a sample is rejected.
    """

    fields: Mapping[str, tuple[str, ...]]
    required: tuple[str, ...] = ()


_PICTURES = ("jpg", "jpeg", "png", "webp")
_SOUNDS = ("flac", "wav", "mp3", "ogg")

OURS = MediaLayout(
    fields={
        "record": ("json",),
        "image#": tuple(f"image#.{e}" for e in (*_PICTURES, "gif", "bmp", "tiff")),
        "audio#": tuple(f"audio#.{e}" for e in _SOUNDS),
    },
    required=("record",),
)
"""Our own media corpora."""

IMG2DATASET = MediaLayout(
    fields={"image": _PICTURES, "caption": ("txt",), "metadata": ("json",)}, required=("image",)
)
"""What img2dataset writes; BLIP3o's tars are the same without `metadata`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MediaSample:
    """The wanted members of one sample.

    Attributes:
        key: their common name, with its folder, as it stands in the tar.
        fields: field name to bytes.
        names: field name to the member's name, to choose a decoder and to name it in errors.
        unused: names of its members that the layout does not speak of.
    """

    key: str
    fields: Mapping[str, bytes]
    names: Mapping[str, str]
    unused: tuple[str, ...] = ()


class _Member(NamedTuple):
    name: str
    data: bytes
    fault: str | None


@dataclass(slots=True)
class _Group:
    """Neighbours with one key: what they hold by extension, and their names in the tar."""

    key: str
    data: dict[str, bytes] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


def read_media_tar(
    storage: Storage, name: str, layout: MediaLayout
) -> Iterator[MediaSample | Reject]:
    """Samples and rejects of one tar, in its order: one for each run of members that share a key.

    Tars that are compressed with gzip, bzip2 or xz are read too.

    Args:
        storage: where the tar is.
        name: its name there.
        layout: which members stand for which fields.

    Raises:
        CorpusError: the archive is damaged or ends too early; it names the last whole member.
        StorageError: it cannot be opened.
    """
    finished: set[str] = set()
    group: _Group | None = None
    for path, data, fault in _members(storage, name):
        key, suffix = split_name(path)
        if group is None or key != group.key:
            if group is not None:
                yield _finish(group, layout)
                finished.add(group.key)
            group = _Group(key)
            if key in finished:
                group.fault = ("scattered sample", f"other members of {key} stand earlier")
        if suffix in group.data:
            group.fault = ("duplicate member", f"{path} stands twice")
        if fault:
            group.fault = (fault, path)
        group.data[suffix], group.names[suffix] = data, path
    if group is not None:
        yield _finish(group, layout)


def split_name(path: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the last path component.

    Returns:
        Key (with its folder) and lower-case extension without its dot ("" where there is none).
    """
    folder, slash, base = path.rpartition("/")
    stem, _, suffix = base.partition(".")
    return folder + slash + stem, suffix.lower()


def _finish(group: _Group, layout: MediaLayout) -> MediaSample | Reject:
    if group.fault:
        reason, detail = group.fault
        return Reject(key=group.key, stage="read", reason=reason, detail=detail)
    suffixes = _assign(group, layout)
    if missing := [name for name in layout.required if name not in suffixes]:
        detail = f"no {', '.join(missing)} among {', '.join(sorted(group.data))}"
        return Reject(key=group.key, stage="read", reason="missing member", detail=detail)
    used = set(suffixes.values())
    return MediaSample(
        key=group.key,
        fields={name: group.data[suffix] for name, suffix in suffixes.items()},
        names={name: group.names[suffix] for name, suffix in suffixes.items()},
        unused=tuple(group.names[suffix] for suffix in sorted(group.data) if suffix not in used),
    )


def _assign(group: _Group, layout: MediaLayout) -> dict[str, str]:
    """Field to extension, for every field of the layout that the group can fill."""
    chosen: dict[str, str] = {}
    for name, patterns in layout.fields.items():
        for pattern in patterns:
            regex = re.escape(pattern).replace(r"\#", "([0-9]+)")
            for suffix in sorted(group.data):
                if match := re.fullmatch(regex, suffix):
                    number = match[1] if match.re.groups else ""
                    chosen.setdefault(name.replace("#", number), suffix)
    return chosen


def _members(storage: Storage, name: str) -> Iterator[_Member]:
    last = "(none)"
    with storage.open(name) as raw:
        try:
            with (
                _inflated(raw) as file,
                tarfile.open(
                    fileobj=file,
                    mode="r:",
                    tarinfo=_StrictTarInfo,
                    encoding="utf-8",
                    errors="backslashreplace",
                ) as archive,
            ):
                while (info := archive.next()) is not None:
                    archive.members.clear()  # type: ignore[attr-defined] # or it keeps every header
                    last = info.name
                    if not info.isdir():
                        fault = _member_fault(info)
                        yield _Member(info.name, b"" if fault else _payload(archive, info), fault)
                _check_end(file)
        except _DAMAGE as error:
            reason = f"damaged or truncated at or after member {last}: {error}"
            raise CorpusError(storage.path(name), reason) from error


def _inflated(raw: IO[bytes]) -> Any:
    """The tar itself, read through its compressor where it has one (which checks its sums)."""
    magic = raw.read(6)
    raw.seek(0)
    opener = next((_OPENERS[m] for m in _OPENERS if magic.startswith(m)), None)
    return opener(raw) if opener else nullcontext(raw)


def _payload(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    """A member's bytes, read in pieces: memory follows what is there, not what is claimed."""
    content = archive.extractfile(info)
    return b"" if content is None else b"".join(iter(partial(content.read, _CHUNK), b""))


def _check_end(file: IO[bytes]) -> None:
    """Only zeros may follow the end mark: a zeroed header in mid-archive looks just like it."""
    while chunk := file.read(_CHUNK):
        if chunk.count(0) != len(chunk):
            raise tarfile.ReadError("more data after the end mark")


def _member_fault(info: tarfile.TarInfo) -> str | None:
    if not info.isreg():
        return "not a regular file"
    if info.name.startswith("/") or ".." in info.name.split("/"):
        return "name leaves the archive"
    if info.size > MAX_MEMBER_BYTES:
        return "member too large"
    return None


class _StrictTarInfo(tarfile.TarInfo):
    """Without this, `tarfile` takes a damaged header in mid-archive for a peaceful end."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _StrictTarInfo:
        try:
            info = super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end-of-archive mark
                raise
            raise tarfile.ReadError(str(error)) from error
        if not 0 <= info.size <= _MAX_CLAIM:
            raise tarfile.ReadError(f"{info.name} claims a size of {info.size} bytes")
        return info

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _StrictTarInfo:
        info = super().frombuf(buf, encoding, errors)
        if info.type in _EXTENSIONS and not 0 <= info.size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"an extended header claims a size of {info.size} bytes")
        return info

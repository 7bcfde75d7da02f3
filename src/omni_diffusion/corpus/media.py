"""Pictures, sounds and texts from ordinary WebDataset tars: ours and other people's.

A sample is a run of neighbouring members that share a name up to the first dot. A layout says
which of them are wanted, under which extensions they may come, and which must be there:

    OURS          KEY.json (a record), KEY.image0.jpg, KEY.audio0.flac, ...
    IMG2DATASET   KEY.jpg, KEY.txt, KEY.json

Python's `tarfile` reads the archives, with its silent endings turned into errors. Everything in an
archive comes out as a sample or as a reject: links, members that would leave the archive,
duplicates and stray pieces of a sample are named, where `webdataset` passes over them in silence
(measured: `docs/decisions.md`).
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import CorpusError

MAX_MEMBER_BYTES = 1 << 30
"""A larger member is rejected instead of being read into memory."""


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
        "image#": tuple(f"image#.{e}" for e in _PICTURES),
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


@dataclass(slots=True)
class _Group:
    key: str
    data: dict[str, bytes] = field(default_factory=dict)
    fault: tuple[str, str] | None = None


def read_media_tar(
    storage: Storage, name: str, layout: MediaLayout
) -> Iterator[MediaSample | Reject]:
    """Samples and rejects of one tar, in its order. Compressed tars are read too.

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
    for member in _members(storage, name):
        if isinstance(member, Reject):
            yield member
            continue
        path, data = member
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
        group.data[suffix] = data
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
        names={name: f"{group.key}.{suffix}" for name, suffix in suffixes.items()},
        unused=tuple(f"{group.key}.{s}" for s in sorted(group.data) if s not in used),
    )


def _assign(group: _Group, layout: MediaLayout) -> dict[str, str]:
    """Field to extension, for every field of the layout that the group can fill."""
    chosen: dict[str, str] = {}
    for name, patterns in layout.fields.items():
        for pattern in patterns:
            regex = re.escape(pattern).replace(r"\#", r"(\d+)")
            for suffix in sorted(group.data):
                if match := re.fullmatch(regex, suffix):
                    number = match[1] if match.re.groups else ""
                    chosen.setdefault(name.replace("#", number), suffix)
    return chosen


def _members(storage: Storage, name: str) -> Iterator[tuple[str, bytes] | Reject]:
    path, last = storage.path(name), "(none)"
    try:
        with (
            storage.open(name) as file,
            tarfile.open(fileobj=file, mode="r|*", tarinfo=_StrictTarInfo) as archive,
        ):
            for info in archive:
                if info.isdir():
                    continue
                if fault := _member_fault(info):
                    yield Reject(key=info.name, stage="read", reason=fault, detail=path)
                elif (content := archive.extractfile(info)) is not None:
                    data = content.read()
                    if len(data) != info.size:
                        raise tarfile.ReadError("unexpected end of data")
                    yield info.name, data
                last = info.name
    except (tarfile.TarError, EOFError, OSError) as error:
        reason = f"damaged or truncated after member {last}: {error}"
        raise CorpusError(path, reason) from error


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
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the end-of-archive mark
                raise
            raise tarfile.ReadError(str(error)) from error

"""The part of tar that shards use: plain USTAR files, written and walked byte for byte.

Python's `tarfile` writes a clock time and, for a fractional one, a 1,024-byte PAX header before
every member; it also skips damaged headers at the end of an archive in silence. Shards need the
same bytes at every run and an error at every damage, so the 512-byte header is made and read here.
Foreign tars are read with `tarfile`, in `media`.
"""

from __future__ import annotations

from collections.abc import Iterator
from mmap import mmap
from typing import NamedTuple

from omni_diffusion.errors import CorpusError

BLOCK = 512
END = bytes(2 * BLOCK)
"""An archive ends with two zero blocks; nothing follows them in a shard."""

MAX_NAME = 100
MAX_MEMBER = 8**11 - 1
"""Largest size that eleven octal digits can say (8 GiB - 1)."""


class Member(NamedTuple):
    """One file of an archive: its name, and where its payload lies."""

    name: str
    offset: int
    size: int


def member_header(name: str, size: int) -> bytes:
    """The 512-byte USTAR header of a regular file with mode 644, owner 0:0 and time 0.

    Raises:
        ValueError: the name or the size does not fit a plain USTAR header.
    """
    raw = name.encode()
    if len(raw) > MAX_NAME or size > MAX_MEMBER:
        raise ValueError(f"{name[:120]!r} of {size} bytes does not fit a USTAR header")
    fields = [
        raw.ljust(100, b"\0"),
        b"0000644\0" + b"0000000\0" * 2,  # mode, user, group
        b"%011o\0" % size,
        b"%011o\0" % 0,  # modification time
        b" " * 8,  # the checksum counts itself as spaces
        b"0" + bytes(100),  # regular file, no link name
        b"ustar\x0000" + bytes(32 + 32),  # version, user and group names
        b"0000000\0" * 2 + bytes(155 + 12),  # device numbers, name prefix, padding
    ]
    block = b"".join(fields)
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padding(size: int) -> bytes:
    """Zeros that fill a payload of `size` bytes up to a whole block."""
    return bytes(-size % BLOCK)


def walk(data: bytes | mmap, path: object) -> Iterator[Member]:
    """All members of a shard in order, checking every header on the way.

    Args:
        data: the whole archive.
        path: named in errors.

    Raises:
        CorpusError: a damaged header, a link or device, a name that would leave the archive, a
            size beyond the end of the file, a missing end, or bytes after the end.
    """
    at, total = 0, len(data)
    while True:
        block = data[at : at + BLOCK]
        if len(block) < BLOCK:
            raise CorpusError(path, f"truncated: {total} bytes, no end-of-archive mark at {at}")
        if not any(block):
            break
        member = _member(block, at, path)
        end = member.offset + member.size
        if end + len(padding(member.size)) > total:
            reason = f"truncated: member {member.name} claims bytes up to {end} of {total}"
            raise CorpusError(path, reason)
        if any(data[end : end + len(padding(member.size))]):
            raise CorpusError(path, f"damaged padding after member {member.name}")
        yield member
        at = end + len(padding(member.size))
    if total - at != len(END) or data[at:] != END:
        raise CorpusError(path, f"damaged end: expected {len(END)} zero bytes from {at}")


def _member(block: bytes, at: int, path: object) -> Member:
    name = block[:100].rstrip(b"\0").decode("utf-8", "replace")
    digits = block[124:135]
    if not digits.strip(b"01234567"):
        size = int(digits, 8)
        if block == member_header(name, size) and _stays_inside(name):
            return Member(name, at + BLOCK, size)
    raise CorpusError(path, f"member {name!r} at {at}: {_header_fault(block, name)}")


def _stays_inside(name: str) -> bool:
    return not name.startswith("/") and ".." not in name.split("/")


def _header_fault(block: bytes, name: str) -> str:
    """Why a header is not one that shards are written with, as exactly as can be said."""
    if block[257:265] != b"ustar\x0000":
        return "not a USTAR header"
    checksum = block[148:156].rstrip(b"\0 ")
    found = sum(block) - sum(block[148:156]) + 8 * 32
    if not checksum or checksum.strip(b"01234567") or int(checksum, 8) != found:
        return "header checksum does not match"
    if block[156:157] != b"0":
        return f"not a regular file (type {block[156:157]!r})"
    if any(block[345:500]) or not _stays_inside(name):
        return "a name that leaves the archive"
    return "a header that shards are not written with (owner, mode, time or size)"

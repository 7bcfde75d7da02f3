"""Texts of a corpus for a page: nothing in them may hide, reorder or command anything.

Escaping of HTML is the template's business; `visible` is about characters that escaping leaves
alone, and the template calls it for everything that it puts into the page.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Characters that turn the direction of what follows."""

_UNSEEN = frozenset("\u00ad\u200b\u2028\u2029\u2060\ufeff")
"""Characters without a shape, and the two line ends that only some programs see."""

MOST_CHARACTERS = 1200
"""Of one piece of text; a page is for looking, `show` prints the whole."""

MOST_IN_CELL = 160
MOST_IN_LABEL = 48


def visible(text: str) -> str:
    """Control characters as their pictures, characters that turn or hide text by their number.

    Line ends and tabs stay. ZWJ and ZWNJ stay too: emoji and several scripts need them.
    """
    return "".join(map(_seen, text)) if not text.isprintable() else text


def _seen(c: str) -> str:
    if c in "\n\t" or (c.isprintable() and c not in _BIDI and c not in _UNSEEN):
        return c
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    if c in _BIDI or c in _UNSEEN or code < 0xA0:
        return f"⟨U+{code:04X}⟩"
    return c


def shortened(text: str, most: int = MOST_CHARACTERS) -> tuple[str, int]:
    """The beginning of a text, and how many characters are left out."""
    return text[:most], max(0, len(text) - most)


def brief(text: str, most: int) -> str:
    """The beginning of a text on one line."""
    short, left_out = shortened(" ".join(text.split()), most)
    return f"{short}…" if left_out else short


def amount(value: float) -> str:
    """A number for a heading: 1,234 or 56.7 K, 8.90 M, ..."""
    if abs(value) < 10_000:
        return f"{value:,.0f}" if value == int(value) else f"{value:,.3g}"
    for power, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "K")):
        if abs(value) >= power:
            return f"{value / power:.3g} {letter}"
    return f"{value:,.0f}"


def size(n_bytes: float) -> str:
    """A number of bytes for people, in powers of 1000."""
    for power, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "KB")):
        if n_bytes >= power:
            return f"{n_bytes / power:.3g} {unit}"
    return f"{n_bytes:,.0f} B"


def percent(share: float) -> str:
    """A share, with a digit more where it is small."""
    value = share * 100
    if value and abs(value) < 1:
        return f"{value:.2g}%"
    return f"{value:.1f}%"


def duration(seconds: float) -> str:
    """A length of time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 3600 else f"{seconds / 3600:,.3g} h"


_HOURS = ("hours", "speech_hours")
_NAMES = ("code", "shard")
"""Columns whose numbers are names."""

_SHARES = ("share", "fill_alone", "fill_with_equals", "fill", "wer", "cer", "mean_wer")


def is_share(column: str) -> bool:
    """Whether a column of an answer holds parts of one."""
    return column in _SHARES or column.endswith("_share")


def cell(value: Any, column: str = "") -> str:
    """A value of an answer as a person reads it."""
    if value is None:
        return "—"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if not math.isfinite(value):
            return "—"
        if is_share(column):
            return percent(value)
        if column.endswith("_bytes"):
            return size(value)
        if column in _HOURS:
            return duration(value * 3600)
        if column in _NAMES:
            return str(value)
        if isinstance(value, int) or (value == int(value) and abs(value) < 1e15):
            return f"{int(value):,}"
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M}"
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value)
    return brief(str(value), MOST_IN_CELL)


def heading(column: str) -> str:
    """The name of a column as a person reads it."""
    return column.replace("_", " ")

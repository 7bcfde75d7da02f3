"""What a rule is: a small function with a name, a reason, a version and examples.

Rules of the R family select (a text that one of them finds fault with is dropped), rules of the T
family transform. A test runs every rule's examples, so they are its specification.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Dropped:
    """A text, or a whole record, that is not used.

    Attributes:
        rule: id of the rule that decided.
        detail: the piece of the text at fault, or what is wrong, in words.
    """

    rule: str
    detail: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DropRule:
    """Finds what makes a text unfit for speech.

    Attributes:
        id: its name in counters, rejects and records.
        version: raised whenever the rule starts to treat some text differently.
        reason: why such texts are dropped, in a line.
        find: text to the piece at fault, or None where there is none.
        dropped: texts that it must find fault with.
        kept: texts that look alike and must pass.
    """

    id: str
    version: int
    reason: str
    find: Callable[[str], str | None]
    dropped: tuple[str, ...]
    kept: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TransformRule:
    """Rewrites a text towards what a person would say.

    Attributes:
        id: its name in counters and records.
        version: raised whenever the rule starts to write some text differently.
        reason: what it does, in a line.
        apply: text to text; applied twice it changes no more than once.
        examples: pairs of before and after.
    """

    id: str
    version: int
    reason: str
    apply: Callable[[str], str]
    examples: tuple[tuple[str, str], ...]


def first_match(*patterns: str, flags: int = 0) -> Callable[[str], str | None]:
    """A `find` function: the first piece of a text that any of the patterns matches."""
    joined = re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)

    def find(text: str) -> str | None:
        match = joined.search(text)
        return shorten(match[0]) if match else None

    return find


def substitute(
    pattern: str, replace: Callable[[re.Match[str]], str], flags: int = 0
) -> Callable[[str], str]:
    """An `apply` function: every match of a pattern gives way to what `replace` makes of it."""
    compiled = re.compile(pattern, flags)
    return lambda text: compiled.sub(replace, text)


def shorten(text: str, limit: int = 80) -> str:
    """A piece of text for a message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 3] + "..."

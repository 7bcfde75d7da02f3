"""A small source with pictures and sounds, and the recipe that tokenizes it with demo weights."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from omni_diffusion.pipelines.tokenize_recipe import TokenizeRecipe


def picture(seed: int, kind: str = "PNG") -> bytes:
    """A file with a smooth coloured picture."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
    data = io.BytesIO()
    small.resize((96, 80), Image.Resampling.BICUBIC).save(data, kind)
    return data.getvalue()


def sound(seed: int, seconds: float = 0.6, kind: str = "WAV") -> bytes:
    """A file with a tone."""
    rate = 16_000
    moments = np.arange(int(rate * seconds)) / rate
    samples = 0.3 * np.sin(2 * np.pi * (200 + 50 * (seed % 10)) * moments)
    data = io.BytesIO()
    soundfile.write(data, samples.astype(np.float32), rate, format=kind)
    return data.getvalue()


UNUSABLE: dict[str, bytes] = {
    "truncated.jpg": picture(1, "JPEG")[:200],
    "not-a-picture.png": b"GIF of a PNG",
    "empty.png": b"",
    "truncated.wav": sound(1)[:2000],
    "no-sound.wav": b"RIFF",
    "empty.wav": b"",
}
"""Media files that must become rejects."""


def write_source(folder: Path, records: int, unusable_every: int = 0) -> None:
    """A conversation JSONL with media beside it: captions, drawings, spoken questions.

    Args:
        folder: where `data.jsonl` and the media go.
        records: how many lines.
        unusable_every: every n-th line is spoilt in one way or another; 0 spoils none.
    """
    folder.mkdir()
    for name, data in UNUSABLE.items():
        (folder / name).write_bytes(data)
    lines = []
    for i in range(records):
        (folder / f"{i}.png").write_bytes(picture(i % 7))
        (folder / f"{i}.wav").write_bytes(sound(i))
        line = json.dumps(_record(i))
        if unusable_every and i % unusable_every == 0:
            line = _spoilt(i, i // unusable_every)
        lines.append(line)
    (folder / "data.jsonl").write_text("\n".join(lines) + "\n")


def _record(i: int) -> dict[str, Any]:
    kinds: tuple[dict[str, Any], ...] = (
        {"task": "caption", "images": [f"{i}.png"], "messages": [
            {"role": "user", "content": "<|image|>\nDescribe it."},
            {"role": "assistant", "content": f"Picture number {i}."}]},
        {"task": "t2i", "images": [f"{i}.png"], "messages": [
            {"role": "user", "content": f"Draw number {i}."},
            {"role": "assistant", "content": "<|image|>"}]},
        {"task": "svqa", "images": [f"{i}.png"], "audios": [f"{i}.wav", f"{(i + 1) % 3}.wav"],
         "messages": [
            {"role": "user", "content": "<|audio|>\n<|image|>"},
            {"role": "assistant", "content": f"It is {i}.\n<|audio|>"}]},
    )  # fmt: skip
    return kinds[i % 3]


def _spoilt(i: int, way: int) -> str:
    """A line that cannot be used: broken text, a broken record, or broken media."""
    names = list(UNUSABLE)
    ways = [
        "{broken",
        json.dumps({"messages": "none"}),
        json.dumps(_record(1) | {"images": []}),
        json.dumps(_record(1) | {"images": ["missing.png"]}),
        json.dumps({"messages": [{"role": "robot", "content": "a"}]}),
    ]
    for name in names:
        what = "images" if name.endswith(("jpg", "png")) else "audios"
        mark = "<|image|>" if what == "images" else "<|audio|>"
        message = {"role": "user", "content": f"{i} {mark}"}
        ways.append(json.dumps({"messages": [message], what: [name]}))
    return ways[way % len(ways)]


def recipe(source: str, output: str, **settings: Any) -> TokenizeRecipe:
    """The recipe for `write_source`'s folder (or its URL), with more keys if wanted."""
    value = {
        "source": {
            "kind": "conversations",
            "path": f"{source}/data.jsonl",
            "media_root": source,
            "source": "test",
            "records_per_shard": 10,
        },
        "output": output,
        "tokenizers": {"text": "demo", "image": "demo", "speech": "demo"},
        "pictures": {"question": 256, "answer": 256},
    }
    return TokenizeRecipe.model_validate_json(json.dumps(value | settings))

"""The page that tells what the demo did: one file, no network, no script."""

from __future__ import annotations

import base64
import json
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from omni_diffusion import __version__
from omni_diffusion.audit.report.encoding import picture_uri
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.sample import STREAMS
from omni_diffusion.demo.examples import Example, read_examples
from omni_diffusion.demo.steps import DATA, GENERATION, TRAINING, Done, read_log
from omni_diffusion.tokenize.codes import Codes, span_codes
from omni_diffusion.tokenize.media import MediaTokenizers

PAGE = "index.html"
_SIDE = 192
_CELL = 12
_GOLDEN = 0.618034

TITLES = {
    "t2i": "Draw a description",
    "s2i": "Draw what is said",
    "vqa": "Answer a question about a picture",
    "svqa": "Answer a spoken question about a picture",
    "caption": "Describe a picture",
    "asr": "Write down what is said",
    "tts": "Speak a sentence",
}


@dataclass(frozen=True, kw_only=True)
class Medium:
    """A picture or a sound of the page: `image` or `audio`, and its `data:` URI."""

    kind: str
    uri: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An example with what the model made of it; `made` and `made_text` may be empty."""

    example: Example
    title: str
    given: list[Medium]
    expected: list[Medium]
    made: list[Medium]
    made_text: str
    trace: Medium | None


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """A picture on its way: as it came, as codes, and as it is decoded of them."""

    caption: str
    original: str
    codes: str
    decoded: str
    first: list[int]


@dataclass(frozen=True, kw_only=True)
class Heard:
    """A question on its way: as it was spoken, and as it is decoded of its codes."""

    text: str
    original: str
    decoded: str
    first: list[int]
    count: int


@dataclass(frozen=True, kw_only=True)
class Learned:
    """A loss before training and after, both of what was held out."""

    name: str
    before: float
    after: float


def write_page(folder: Path) -> Path:
    """Write `index.html` of a finished demo."""
    examples = read_examples(folder)
    shown = [_shown(folder, example) for example in examples]
    log = {done.command: done for done in read_log(folder)}
    page = _template().render(
        version=__version__,
        corpora=[_corpus(folder, name) for name in ("corpora/demo", "corpora/sdvi-demo")],
        tokens=_tokens(folder, examples),
        heard=_heard(folder, examples),
        learned=_learned(folder / "runs/demo"),
        shown=shown,
        steps=[(step, log.get(step.command)) for step in (*DATA, *TRAINING, *GENERATION)],
        total_s=sum(done.seconds for done in log.values()),
        trained_s=_seconds(log, "train "),
        parameters=_parameters(folder / "runs/demo/model"),
    )
    target = folder / PAGE
    target.write_text(page, "utf-8")
    return target


def _shown(folder: Path, example: Example) -> Shown:
    made = folder / "generated"
    text = made / f"{example.key}.txt"
    trace = made / f"{example.key}.trace.png"
    found = [made / f"{example.key}{ending}" for ending in (".png", ".wav")]
    return Shown(
        example=example,
        title=TITLES[example.task],
        given=[_medium(folder / path) for path in example.given.values()],
        expected=[_medium(folder / path) for path in example.expected.values()],
        made=[_medium(path) for path in found if path.exists()],
        made_text=text.read_text("utf-8").strip() if text.exists() else "",
        trace=_medium(trace, shrink=False)
        if trace.exists() and example.task in ("t2i", "s2i")
        else None,
    )


def _medium(path: Path, *, shrink: bool = True) -> Medium:
    kind = (mimetypes.guess_type(path.name)[0] or "audio/flac").partition("/")[0]
    if kind == "image":
        with Image.open(path) as picture:
            return Medium(kind=kind, uri=picture_uri(_on_white(picture), _SIDE if shrink else 1200))
    return Medium(kind="audio", uri=_data_uri(path))


def _on_white(picture: Image.Image) -> Image.Image:
    """Transparent parts as the tokenizer sees them."""
    rgba = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")


def _data_uri(path: Path) -> str:
    kind = mimetypes.guess_type(path.name)[0] or "audio/flac"
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _codes_of(folder: Path, example: Example, stream: str) -> Codes:
    """The codes of an example's first span whose stream's name begins so."""
    corpus = Corpus(folder / example.corpus)
    sample = corpus.get(example.key)
    spans = (STREAMS[span["stream"]].name for span in sample.spans)
    number = next(i for i, name in enumerate(spans) if name.startswith(stream))
    codes = span_codes(sample, number, corpus.manifest.fingerprints)
    assert codes is not None
    return codes


def _tokens(folder: Path, examples: list[Example]) -> Tokens | None:
    example = next((e for e in examples if e.task == "t2i"), None)
    if example is None:
        return None
    codes = _codes_of(folder, example, "image")
    grid = codes.codes.numpy().reshape(codes.grid)
    return Tokens(
        caption=example.text,
        original=_medium(folder / example.expected["image"]).uri,
        codes=picture_uri(_as_colours(grid)),
        decoded=picture_uri(MediaTokenizers.demo().picture(codes), _SIDE),
        first=grid.ravel()[:8].tolist(),
    )


def _heard(folder: Path, examples: list[Example]) -> Heard | None:
    example = next((e for e in examples if e.task == "asr"), None)
    if example is None:
        return None
    codes = _codes_of(folder, example, "speech")
    samples, rate = MediaTokenizers.demo().sound(codes)
    return Heard(
        text=example.answer,
        original=_data_uri(folder / example.given["audio"]),
        decoded=_wav_uri(samples, rate),
        first=codes.codes[:8].tolist(),
        count=len(codes.codes),
    )


def _wav_uri(samples: NDArray[np.float32], rate: int) -> str:
    from omni_diffusion.audit.report.encoding import sound_uri

    return sound_uri(samples, rate, float("inf"))[0]


def _as_colours(grid: NDArray[Any]) -> Image.Image:
    """Codes as a mosaic: the same code has the same colour, neighbours in number do not."""
    hue = np.round((grid * _GOLDEN % 1) * 255).astype(np.uint8)
    light = (160 + grid * 37 % 80).astype(np.uint8)
    bands = [Image.fromarray(band) for band in (hue, np.full_like(hue, 110), light)]
    mosaic = Image.merge("HSV", bands).convert("RGB")
    return mosaic.resize((grid.shape[1] * _CELL, grid.shape[0] * _CELL), Image.Resampling.NEAREST)


def _corpus(folder: Path, name: str) -> dict[str, Any]:
    """Name, samples, shards, rejects, and samples by task."""
    corpus = Corpus(folder / name)
    manifest = corpus.manifest
    tasks = corpus.index.column("task").value_counts().to_pylist()
    return {
        "name": name,
        "rows": manifest.rows,
        "shards": manifest.shards,
        "rejects": manifest.rejects,
        "tasks": sorted(((t["values"], t["counts"]) for t in tasks), key=lambda t: -t[1]),
    }


def _learned(run: Path) -> list[Learned]:
    """Held-out loss before the first step and after the last one: in all, then by task."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [line for line in lines if line["kind"] == "eval"]
    first, last = found[0], found[-1]
    tasks = {name: value for name, value in last["loss_by"]["task"].items() if value is not None}
    before = first["loss_by"]["task"]
    return [
        Learned(name="all tasks", before=first["loss"], after=last["loss"]),
        *(
            Learned(name=name, before=before[name], after=value)
            for name, value in sorted(tasks.items())
            if before.get(name) is not None
        ),
    ]


def _seconds(log: dict[str, Done], start: str) -> float:
    return next((done.seconds for name, done in log.items() if name.startswith(start)), 0.0)


def _parameters(model: Path) -> int:
    """Numbers in an exported model."""
    from safetensors import safe_open

    total = 0
    for path in model.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            total += sum(int(np.prod(file.get_slice(k).get_shape())) for k in file.keys())  # noqa: SIM118
    return total


def _template() -> jinja2.Template:
    loaders = [
        jinja2.PackageLoader("omni_diffusion.demo", "."),
        jinja2.PackageLoader("omni_diffusion.audit.report", "."),
    ]
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("story.html")

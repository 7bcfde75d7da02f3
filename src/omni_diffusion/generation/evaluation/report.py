"""What an evaluation leaves behind: results.json with everything to repeat it, table and plot.

results.json     suite, scores for every number of steps, model, tokenizers, recipe, data, versions
answers.jsonl    every answer
table.md         quality against steps
quality.png      the same as a plot, where there is more than one number of steps
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from omni_diffusion import __version__
from omni_diffusion.generation.evaluation.items import Item
from omni_diffusion.generation.studio import Studio

RESULTS: Final = "results.json"
_PACKAGES = ("torch", "numpy", "transformers", "jiwer", "whisper-normalizer", "faster-whisper")
_PLOTTED: Final = {
    "asr": ("wer",),
    "tts": ("wer",),
    "pope": ("f1", "accuracy"),
    "mme": ("perception",),
    "seed2plus": ("accuracy",),
    "t2i": ("clip_t", "clip_i"),
    "s2i": ("clip_t", "clip_i", "speech_text_clip_i"),
}
"""What is worth plotting of each benchmark."""


def describe(
    studio: Studio, checkpoint: str, weights: Path | None, data: Mapping[str, Any]
) -> dict[str, Any]:
    """What must be the same for the same result.

    Args:
        studio: model, tokenizers and recipe.
        checkpoint: as it was asked for.
        weights: its folder, to fingerprint what is in it; None where it is not local.
        data: the benchmark and where it lies.
    """
    return {
        "omni_diffusion": __version__,
        "checkpoint": checkpoint,
        "weights_sha256": None if weights is None else digest_folder(weights),
        "demo_weights": studio.kit.demo,
        "tokenizers": studio.kit.describe(),
        "recipe": studio.recipe.model_dump(mode="json"),
        "recipe_digest": studio.recipe.digest(),
        "data": dict(data),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def digest_folder(folder: Path) -> str:
    """SHA-256 over names and contents of the weight files of a folder."""
    total = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as data:
            total.update(file.name.encode() + hashlib.file_digest(data, "sha256").digest())
    return total.hexdigest()


def digest_items(items: Sequence[Item]) -> str:
    """SHA-256 over what is asked and expected, so that another subset is another digest."""
    rows = [[i.ask.key, i.ask.task, i.ask.text, i.expected, i.group, i.ask.seed] for i in items]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def write(folder: Path, results: Mapping[str, Any], benchmark: str) -> str:
    """Write results, table and plot. Gives back the table."""
    text = json.dumps(results, indent=2, ensure_ascii=False) + "\n"
    (folder / RESULTS).write_text(text)
    rows = results["by_steps"]
    shown = table(rows)
    (folder / "table.md").write_text(shown + "\n")
    if len(rows) > 1 and benchmark in _PLOTTED:
        plot(rows, _PLOTTED[benchmark], folder / "quality.png")
    return shown


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores against steps in Markdown: a row for each number of steps."""
    numbers = [_numbers(row["scores"]) for row in rows]
    names = list(dict.fromkeys(name for row in numbers for name in row))
    tasks = ["task"] if any("task" in row for row in rows) else []
    heads = [*tasks, "steps", "items", *names, "forwards", "seconds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row, scores in zip(rows, numbers, strict=True):
        steps = f"{row['mean_steps']:.4g}"
        cells = [
            *(row[name] for name in tasks),
            steps,
            row["items"],
            *(_short(scores.get(name)) for name in names),
        ]
        cells += [row["forwards"], row["seconds"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[Mapping[str, Any]], names: Sequence[str], target: Path) -> None:
    """Scores against steps as a picture; one panel a score."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [name for name in names if all(name in row["scores"] for row in rows)]
    if not shown:
        return
    ordered = sorted(rows, key=lambda row: row["mean_steps"])
    figure = Figure(figsize=(4.2 * len(shown), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        steps = [row["mean_steps"] for row in ordered]
        axes.plot(steps, [row["scores"][name] for row in ordered], marker="o")
        axes.set(xlabel="steps", ylabel=name, xscale="log")
        axes.set_xticks(steps, [f"{s:.4g}" for s in steps])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(target, dpi=130)


def _numbers(scores: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: value
        for name, value in scores.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""The tokenizers at their published sizes against plain modules of the same random weights.

Pictures (256 and 512 pixels) per CPU-second, and CPU-seconds per second of speech of mixed
lengths; medians of alternating runs on one thread, with the share of equal codes. Nothing is
claimed for accelerators: none was at hand when this was written, and none is used.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import tokenizers_image, tokenizers_speech  # noqa: E402
from benchmarks.results import tell  # noqa: E402


def benchmark(images: int, clips: int, repeats: int, resolutions: list[int]) -> dict[str, Any]:
    """Both halves, images first."""
    pictures = tokenizers_image.run(images, repeats, resolutions)
    return {
        "image": pictures,
        "image_speedup": {
            side: {way: round(found[way]["speedup"], 2) for way in ("encode", "decode")}
            for side, found in pictures["resolutions"].items()
        },
        "speech": (speech := tokenizers_speech.run(clips, repeats)),
        "speech_speedup": speech["speedup"],
        "accelerator": None,
    }


def main(
    images: int = typer.Option(2, help="Pictures of each resolution."),
    clips: int = typer.Option(8, help="Sounds of 1 to 15 s."),
    repeats: int = typer.Option(3, help="Alternating rounds."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write figures to benchmarks/results/tokenizers.json."),
) -> None:
    """Measure the tokenizers on the CPU."""
    sizes = (1, 3, 1, [128]) if short else (images, clips, repeats, [256, 512])
    figures = benchmark(*sizes)
    tell("tokenizers", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)

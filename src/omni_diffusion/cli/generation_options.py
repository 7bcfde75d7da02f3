"""Options that `generate`, `serve` and `evaluate` share: checkpoint, tokenizers, recipe."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from omni_diffusion.generation.generation_recipe import GenerationRecipe
    from omni_diffusion.generation.studio import Studio

CHECKPOINT = typer.Argument(help="RUN/model, a run folder, any checkpoint folder, or a hub name.")
RECIPE = typer.Option(None, "--recipe", help="A generation recipe (YAML).")
PRESET = typer.Option(None, "--preset", help="default, paper or published-code.")
SET = typer.Option(None, "--set", help="Override a recipe's key: t2i.sampler.steps=50 ...")
TEXT = typer.Option(None, "--text-tokenizer", help="Text tokenizer; else the checkpoint's own.")
IMAGE = typer.Option(None, "--image-tokenizer", help="Picture tokenizer: hub name or folder.")
SPEECH = typer.Option(None, "--speech-tokenizer", help="Speech tokenizer: hub name or folder.")
DECODER = typer.Option(None, "--speech-decoder", help="Speech decoder: hub name or folder.")
FEATURES = typer.Option(None, "--features", help="SenseVoice, for models that hear features.")
DEVICE = typer.Option("cpu", "--device", help="Where to run: cpu, cuda, cuda:1, ...")


def generation_recipe(
    recipe: Path | None, preset: str | None, overrides: Sequence[str] | None
) -> GenerationRecipe:
    """The recipe that the options name.

    Raises:
        RecipeError: a key or value is wrong.
    """
    import tempfile

    from omni_diffusion.generation.generation_recipe import GenerationRecipe
    from omni_diffusion.recipe import load_recipe

    changes = list(overrides or ())
    if preset is not None:
        changes.insert(0, f"preset={preset}")
    if recipe is not None:
        return load_recipe(recipe, GenerationRecipe, changes)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "generation")
        file.write_text("")
        return load_recipe(file, GenerationRecipe, changes)


def weights_folder(checkpoint: str) -> Path | None:
    """Where the weights lie, if that is a local folder."""
    folder = Path(checkpoint)
    inner = folder / "model"
    if not (folder / "config.json").is_file() and inner.is_dir():
        return inner
    return folder if folder.is_dir() else None


def open_studio(
    checkpoint: str,
    recipe: GenerationRecipe,
    text: str | None,
    image: str | None,
    speech: str | None,
    decoder: str | None,
    features: str | None,
    device: str,
) -> Studio:
    """Load the model and its tokenizers.

    Raises:
        OmniError: something is absent or does not fit.
    """
    from omni_diffusion.generation.kit import Names, load_checkpoint
    from omni_diffusion.generation.studio import Studio

    names = Names(text=text, image=image, speech=speech, speech_decoder=decoder, features=features)
    return Studio(*load_checkpoint(checkpoint, names, device), recipe)

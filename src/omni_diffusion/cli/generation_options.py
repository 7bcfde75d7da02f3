"""Options that `generate`, `serve` and `evaluate` share: checkpoint, tokenizers, recipe."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from omni_diffusion.cli import recipe_options

if TYPE_CHECKING:
    from omni_diffusion.generation.generation_recipe import GenerationRecipe
    from omni_diffusion.generation.studio import Studio

#: Named here so that `--help` need not load torch; a test holds it to the recipe's tasks.
Task = Literal["t2i", "s2i", "tts", "asr", "caption", "vqa", "svqa", "sqa", "chat"]


@dataclass(frozen=True, kw_only=True)
class StudioOptions:
    """What the user says of model, tokenizers and recipe."""

    checkpoint: str = typer.Argument(
        help="RUN/model, a run folder, any checkpoint folder, or a hub name."
    )
    overrides: list[str] = recipe_options.overrides("t2i.sampler.steps=50")
    recipe: Path | None = typer.Option(None, help="A generation recipe (YAML).")
    preset: Literal["default", "paper", "published-code"] | None = typer.Option(
        None, help="Lengths and samplers: ours, the paper's, or those of the released code."
    )
    text_tokenizer: str | None = typer.Option(
        None, help="Text tokenizer; else the checkpoint's own."
    )
    image_tokenizer: str | None = typer.Option(None, help="Picture tokenizer: hub name or folder.")
    speech_tokenizer: str | None = typer.Option(None, help="Speech tokenizer: hub name or folder.")
    speech_decoder: str | None = typer.Option(None, help="Speech decoder: hub name or folder.")
    features: str | None = typer.Option(None, help="SenseVoice, for models that hear features.")
    device: str = typer.Option("cpu", help="Where to run: cpu, cuda, cuda:1, ...")

    def open(self) -> Studio:
        """Load the model, its tokenizers and the recipe.

        Raises:
            OmniError: something is absent or does not fit.
        """
        from omni_diffusion.generation.kit import Names, load_checkpoint
        from omni_diffusion.generation.studio import Studio

        chosen = self._chosen_recipe()
        names = Names(
            text=self.text_tokenizer,
            image=self.image_tokenizer,
            speech=self.speech_tokenizer,
            speech_decoder=self.speech_decoder,
            features=self.features,
        )
        return Studio(*load_checkpoint(self.checkpoint, names, self.device), chosen)

    def weights_folder(self) -> Path | None:
        """Where the weights lie, if that is a local folder."""
        folder = Path(self.checkpoint)
        inner = folder / "model"
        if not (folder / "config.json").is_file() and inner.is_dir():
            return inner
        return folder if folder.is_dir() else None

    def _chosen_recipe(self) -> GenerationRecipe:
        import tempfile

        from omni_diffusion.generation.generation_recipe import GenerationRecipe
        from omni_diffusion.recipe import load_recipe

        changes = list(self.overrides or ())
        if self.preset is not None:
            changes.insert(0, f"preset={self.preset}")
        if self.recipe is not None:
            return load_recipe(self.recipe, GenerationRecipe, changes)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "generation")
            file.write_text("")
            return load_recipe(file, GenerationRecipe, changes)


def with_studio(command: Callable[..., None]) -> Callable[..., None]:
    """Give a verb these options; it gets them together as its first argument."""
    shared = inspect.signature(StudioOptions, eval_str=True).parameters
    arguments, options = list(shared.values())[:2], list(shared.values())[2:]
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]

    @wraps(command)
    def verb(**given: Any) -> None:
        said = StudioOptions(**{name: given.pop(name) for name in shared})
        command(said, **given)

    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*arguments, *own, *options)
    ]
    verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    verb.__annotations__ = {one.name: one.annotation for one in parameters}
    return verb

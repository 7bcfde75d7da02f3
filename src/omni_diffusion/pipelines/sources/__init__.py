"""Where records come from: one module a kind of source."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from omni_diffusion.pipelines.sources import recipe as kinds
from omni_diffusion.pipelines.sources.files import absolute
from omni_diffusion.pipelines.sources.partition import Source
from omni_diffusion.pipelines.sources.recipe import SourceRecipe

__all__ = ["SourceRecipe", "absolute_paths", "open_source"]

R = TypeVar("R", bound=kinds.RecordSettings)


def open_source(recipe: SourceRecipe) -> Source:
    """The source that a recipe describes; cheap, and nothing but media roots is looked at.

    Raises:
        SourceError: a media root is not there.
    """
    # Each kind imports its own libraries only.
    match recipe:
        case kinds.ParquetRecipe():
            from omni_diffusion.pipelines.sources.parquet import ParquetSource

            return ParquetSource(recipe)
        case kinds.JsonlRecipe():
            from omni_diffusion.pipelines.sources.jsonl import JsonlSource

            return JsonlSource(recipe)
        case kinds.ConversationsRecipe():
            from omni_diffusion.pipelines.sources.jsonl import ConversationsSource

            return ConversationsSource(recipe)
        case kinds.MediaTarsRecipe():
            from omni_diffusion.pipelines.sources.tars import MediaTarsSource

            return MediaTarsSource(recipe)
        case kinds.TarsRecipe():
            from omni_diffusion.pipelines.sources.tars import TarsSource

            return TarsSource(recipe)
        case kinds.FolderRecipe():
            from omni_diffusion.pipelines.sources.folders import FolderSource

            return FolderSource(recipe)
        case kinds.HuggingFaceRecipe():
            from omni_diffusion.pipelines.sources.huggingface import HuggingFaceSource

            return HuggingFaceSource(recipe)
        case kinds.DemoRecipe():
            from omni_diffusion.pipelines.sources.demo import DemoSource

            return DemoSource(recipe)


def absolute_paths(recipe: R) -> R:
    """The same recipe for a process that runs in another folder.

    Partitions name their files absolutely, but media roots, folders of transcripts and local data
    sets come from the recipe.
    """
    changed: dict[str, object] = {}
    for field in ("path", "media_root", "name"):
        value = getattr(recipe, field, None)
        if isinstance(value, tuple):
            changed[field] = tuple(absolute(path) for path in value)
        elif value and (field != "name" or Path(value).exists()):
            changed[field] = absolute(value)
    return recipe.model_copy(update=changed)

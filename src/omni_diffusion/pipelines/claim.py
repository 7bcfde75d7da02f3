"""Whose output a folder is: of one recipe, which is kept in it."""

from __future__ import annotations

import difflib
from typing import Protocol

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import JobError
from omni_diffusion.recipe import RECIPE, Recipe, save_recipe


class JobRecipe(Protocol):
    """The recipe of a job."""

    @property
    def output(self) -> str:
        """Folder or URL of the corpus."""
        ...

    def content(self) -> Recipe:
        """Only what decides the bytes: where and how it runs does not."""
        ...


def claim_output(recipe: JobRecipe) -> str:
    """Keep the recipe in the output, or make sure that it is the one that is kept there.

    Returns:
        The digest of what decides the bytes.

    Raises:
        JobError: another recipe was begun there; shows the lines that differ.
        StorageError: the output cannot be written.
    """
    storage, content = Storage(recipe.output), recipe.content()
    if storage.size(RECIPE) is not None:
        theirs = storage.read(RECIPE).decode(errors="replace").splitlines()
        ours = content.to_yaml().splitlines()
        if theirs != ours:
            lines = difflib.unified_diff(theirs, ours, "there", "here", lineterm="", n=0)
            changes = "\n  ".join(line for line in lines if line[:1] in "+-")
            raise JobError(
                f"{storage.root}: was begun with another recipe:\n  {changes}\n"
                "write to another folder, or go on with the recipe that is there"
            )
    save_recipe(content, storage)
    return content.digest()

"""Whose output a folder is: of one recipe, which is kept in it."""

from __future__ import annotations

import difflib
from typing import Protocol

from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import JobError
from omni_diffusion.pipelines.plan import PLAN
from omni_diffusion.recipe import RECIPE, Recipe


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
        JobError: another recipe was begun there (shows the lines that differ), or what is there
            was not made by a job.
        StorageError: the output cannot be written.
    """
    storage, content = Storage(recipe.output), recipe.content()
    ours = content.to_yaml()
    if storage.size(PLAN) is None:
        if storage.list("shards"):
            raise JobError(
                f"{storage.path('shards')}: files are there, but no {PLAN} of the job that made "
                "them; write to another folder"
            )
        # Nothing was done, e.g. because the source was not found: the recipe may be mended.
        storage.publish_bytes(ours.encode(), RECIPE, replace=True)
    elif (theirs := storage.read(RECIPE).decode(errors="replace")) != ours:
        lines = theirs.splitlines(), ours.splitlines()
        found = list(difflib.unified_diff(*lines, lineterm="", n=0))[2:]
        changes = "\n  ".join(line for line in found if line[:1] in "+-")
        raise JobError(
            f"{storage.root}: was begun with another recipe (- there, + here):\n  {changes}\n"
            "write to another folder, or go on with the recipe that is there"
        )
    return content.digest()

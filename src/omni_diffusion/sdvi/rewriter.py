"""T6: texts rewritten by a program of the user's, e.g. a language model that makes them oral.

The program is started once for a batch. It reads one JSON object a line,

    {"id": 0, "kind": "question", "text": "What is the colour of the object depicted?"}

and writes one for each, in any order; an empty text drops the record:

    {"id": 0, "text": "So, what colour is that thing?"}

What comes back goes through all rules like any other text.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Protocol

from pydantic import Field

from omni_diffusion.errors import OmniError
from omni_diffusion.recipe import Recipe
from omni_diffusion.sdvi.rules import Kind


class RewriteError(OmniError):
    """The rewriter could not be run, or did not answer as it should."""


class RewriterRecipe(Recipe):
    """The program."""

    command: tuple[str, ...] = Field(min_length=1)
    #: The program and its arguments; no shell is involved.
    timeout_s: float = Field(default=300.0, gt=0)
    #: For one batch.


class Rewriter(Protocol):
    """Texts with their kinds to texts, in the same order; "" for one that shall be dropped."""

    def __call__(self, texts: Sequence[tuple[Kind, str]]) -> list[str]:
        """Rewrite a batch.

        Raises:
            RewriteError: it failed.
        """
        ...


class CommandRewriter:
    """See the module."""

    def __init__(self, recipe: RewriterRecipe) -> None:
        self._recipe = recipe

    def __call__(self, texts: Sequence[tuple[Kind, str]]) -> list[str]:
        """Rewrite a batch.

        Raises:
            RewriteError: the program is not there, failed, took too long, or answered otherwise
                than described.
        """
        if not texts:
            return []
        lines = (
            json.dumps({"id": i, "kind": kind, "text": text}) + "\n"
            for i, (kind, text) in enumerate(texts)
        )
        name = self._recipe.command[0]
        try:
            done = subprocess.run(
                self._recipe.command,
                input="".join(lines).encode(),
                capture_output=True,
                timeout=self._recipe.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RewriteError(f"rewriter {name}: took over {self._recipe.timeout_s:g} s") from None
        except OSError as error:
            raise RewriteError(f"rewriter {name}: cannot be started: {error.strerror}") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()[-300:]
            raise RewriteError(f"rewriter {name}: exit code {done.returncode}: {said}")
        return self._parse(done.stdout, len(texts))

    def _parse(self, output: bytes, count: int) -> list[str]:
        name = self._recipe.command[0]
        answers: dict[int, str] = {}
        for number, line in enumerate(output.splitlines(), 1):
            try:
                value = json.loads(line)
                which, text = value["id"], value["text"]
            except (ValueError, TypeError, KeyError) as error:
                reason = f"line {number} of its output is no object with id and text: {error!r}"
                raise RewriteError(f"rewriter {name}: {reason}") from None
            if type(which) is not int or not isinstance(text, str) or not 0 <= which < count:
                reason = f"line {number} of its output has id {which!r}, {count} texts were sent"
                raise RewriteError(f"rewriter {name}: {reason}")
            if which in answers:
                raise RewriteError(f"rewriter {name}: answered id {which} twice")
            answers[which] = text
        if missing := [i for i in range(count) if i not in answers]:
            detail = f"{len(missing)} of {count} texts, the first is id {missing[0]}"
            raise RewriteError(f"rewriter {name}: did not answer {detail}")
        return [answers[i] for i in range(count)]

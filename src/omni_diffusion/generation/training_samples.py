"""Samples that a model in training is asked for, at the same questions every time.

They go to RUN/samples/step-N/: pictures, sounds and texts, named by task and key, and samples.json
with how much of each answer was right. A folder appears when it is complete, so a run that is
stopped on the way leaves none behind, and one that goes on writes the same again.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from omni_diffusion.backbone.dream import Dream
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.errors import OmniError
from omni_diffusion.generation.evaluation import corpus as against
from omni_diffusion.generation.files import write_wav
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.kit import Kit, Names
from omni_diffusion.generation.studio import Reply, Studio
from omni_diffusion.tokenize.text import TextTokenizer

SAMPLES: Final = "samples"
_PER_TASK = 2


class SampleWriter:
    """Draws the samples of a run; see the module.

    Every rank must call it, since a sharded model needs all of them; only one writes.
    """

    def __init__(
        self,
        run: Path,
        corpora: Mapping[str, Sequence[str] | None],
        tokenizer: str,
        recipe: GenerationRecipe,
        *,
        padded: bool = True,
        writes: bool = True,
    ) -> None:
        """Settle what is asked.

        Args:
            run: folder of the run.
            corpora: folders or URLs of corpora, each with the keys to ask (held-out ones are
                best), or None for its first samples. Two of each task are taken.
            tokenizer: text tokenizer of the corpora.
            recipe: how tasks are answered.
            padded: whether samples are trained with a pad behind them.
            writes: whether this process writes.

        Raises:
            OmniError: a corpus cannot be read, or was made with other tokenizers than the first.
        """
        self._run, self._recipe, self._writes = run, recipe, writes
        opened = [(Corpus(root), keys) for root, keys in corpora.items()]
        self._asked = [(corpus, _first_of_each_task(corpus, keys)) for corpus, keys in opened]
        prints: dict[str, str] = {}
        for corpus, _ in opened:
            prints |= corpus.manifest.fingerprints
        self._kit = Kit(TextTokenizer.from_pretrained(tokenizer), Names(), prints, padded=padded)
        self._told = False

    @torch.no_grad()
    def __call__(self, step: int, model: nn.Module) -> None:
        """Answer the questions with the model as it is after so many steps."""
        assert isinstance(model, Dream)
        if isinstance(model, FSDPModule):
            model.unshard()  # speech is embedded outside of the model's own forward
        studio = Studio(model, self._kit, self._recipe)
        asked = self._questions(studio)
        replies = studio.denoise([q.prepared for q in asked], decode=False) if asked else []
        if not self._writes:
            return
        folder = self._run / SAMPLES / f"step-{step}"
        making = folder.with_name(folder.name + ".new")
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        rows = []
        for question, reply in zip(asked, replies, strict=True):
            self._write(making, question, reply)
            rows.append(against.row(question, reply))
        (making / "samples.json").write_text(json.dumps(rows, indent=2, ensure_ascii=False) + "\n")
        shutil.rmtree(folder, ignore_errors=True)
        making.rename(folder)

    def _questions(self, studio: Studio) -> list[against.Question]:
        """The same ones every time; laid out anew, because what hears speech is learning, too."""
        return [
            question
            for corpus, keys in self._asked
            for question in against.questions(studio, corpus, keys=keys)
        ]

    def _write(self, folder: Path, question: against.Question, reply: Reply) -> None:
        ask = question.prepared.ask
        stem = f"{ask.task}-{ask.key}"
        if question.text:
            said = f"expected: {question.text}\nanswer:   {reply.parts.text}\n"
            (folder / f"{stem}.txt").write_text(said)
        try:
            if reply.parts.picture is not None:
                self._kit.draw(reply.parts.picture).save(folder / f"{stem}.png")
            if reply.parts.speech is not None:
                write_wav(self._kit.sound(reply.parts.speech), folder / f"{stem}.wav")
        except OmniError as error:
            if not self._told:  # codes can be decoded later; training does not stop for it
                print(f"samples: not decoded: {error}", file=sys.stderr, flush=True)
            self._told = True
        codes: dict[str, Any] = {
            name: getattr(reply.parts, name).tolist()
            for name in ("picture", "speech")
            if getattr(reply.parts, name) is not None
        }
        if codes:
            (folder / f"{stem}.codes.json").write_text(json.dumps(codes) + "\n")


def _first_of_each_task(corpus: Corpus, keys: Sequence[str] | None) -> list[str]:
    """Two keys of each task, out of the given ones or of all."""
    tasks = corpus.index.column("task").to_pylist()
    every = corpus.index.keys(np.arange(len(tasks)))
    wanted = None if keys is None else set(keys)
    chosen: dict[str, list[str]] = {}
    for key, task in zip(every, tasks, strict=True):
        if (wanted is None or key in wanted) and len(chosen.setdefault(task, [])) < _PER_TASK:
            chosen[task].append(key)
    return [key for of_task in chosen.values() for key in of_task]

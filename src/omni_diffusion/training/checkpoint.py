"""The state of a run on disk, written beside training and complete or not there.

    RUN/checkpoints/step-00000500/     any number of ranks can read it
        shard-00001-model-00001-of-00001.safetensors     what rank 0 held; one file a rank
        state.json                     step, plan, vocabulary, model, last losses, sizes of files
    RUN/checkpoints/step-00001000.partial/               being written, or left by a killed run

Tensors are written by PyTorch's distributed checkpoint in its safetensors form: nothing is pickled,
and each rank writes its part. They are copied first and written by a thread, while training goes
on. When all ranks have written, `state.json` is added and the folder gets its name: from then on it
counts. Parameters that do not learn are not saved; they come from where the recipe says.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from omni_diffusion.corpus.storage import NO_ROOM, sync_folder
from omni_diffusion.errors import CheckpointError, DiskFullError
from omni_diffusion.training.parallel import World
from omni_diffusion.training.train_recipe import CheckpointRecipe

# Said for one process on every save and load, by a thread where `catch_warnings` does not reach.
warnings.filterwarnings("ignore", "torch.distributed is disabled, unavailable or uninitialized")

STATE: Final = "state.json"
VERSION: Final = 1
_PARTIAL: Final = ".partial"
_NAME: Final = re.compile(r"step-(\d{8,})")


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: RUN/checkpoints; made when something is saved.
        recipe: how long they stay.
        world: who writes. Every rank must call `save` and `load`.
    """

    def __init__(self, folder: Path, recipe: CheckpointRecipe, world: World) -> None:
        self._folder, self._recipe, self._world = folder, recipe, world
        self._pending: tuple[Path, dict[str, Any], Future[Any]] | None = None
        self._last = -1
        if world.first:
            for left in folder.glob(f"step-*{_PARTIAL}"):  # by a run that was killed
                shutil.rmtree(left)

    def found(self) -> list[Path]:
        """Complete checkpoints, oldest first."""
        folders = [path for path in self._folder.glob("step-*") if _NAME.fullmatch(path.name)]
        return sorted(folders, key=step_of)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copy the tensors and begin to write them; `poll` or `finish` publishes.

        Raises:
            DiskFullError, CheckpointError: an earlier one could not be written.
        """
        self.finish()
        if step == self._last:
            return  # by the schedule, and at the end
        self._last = step
        target = self._folder / f"step-{step:08d}"
        partial = target.with_name(target.name + _PARTIAL)
        with _writing(target, partial):
            future = async_save(
                dict(tensors),
                storage_writer=HuggingFaceStorageWriter(str(partial), save_distributed=True),
                process_group=self._world.saving,
                no_dist=not self._world.distributed,
            )
        assert isinstance(future, Future)
        self._pending = target, {"version": VERSION, "step": step, **state}, future

    def poll(self) -> None:
        """Publish what is written by now. Raises as `finish`."""
        if self._pending and self._pending[2].done():
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written, and publish it.

        Raises:
            DiskFullError: there is no room; what was there before is untouched.
            CheckpointError: it cannot be written for another reason.
        """
        if self._pending is None:
            return
        (target, state, future), self._pending = self._pending, None
        partial = target.with_name(target.name + _PARTIAL)
        with _writing(target, partial):
            future.result()
            if not self._world.first:
                return
            files = {path.name: path.stat().st_size for path in sorted(partial.glob("*.safe*"))}
            text = json.dumps({**state, "files": files}, indent=2) + "\n"
            with (partial / STATE).open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(target)
            sync_folder(self._folder)
            self._drop_old()

    def load(self, path: Path, tensors: Mapping[str, Tensor]) -> None:
        """Fill tensors, sharded in any way, from a checkpoint.

        Raises:
            CheckpointError: it does not hold them, or is damaged.
        """
        for name, size in read_state(path)["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != size:
                raise CheckpointError(file, f"is not there with its {size} bytes; {_WAY_OUT}")
        try:
            with torch.no_grad():
                load(
                    dict(tensors),
                    storage_reader=HuggingFaceStorageReader(str(path)),
                    process_group=self._world.saving,
                    no_dist=not self._world.distributed,
                )
        except (Exception, CheckpointException) as error:
            raise CheckpointError(path, f"cannot be read: {error}; {_WAY_OUT}") from error

    def _drop_old(self) -> None:
        every = self._recipe.keep_every
        for path in self.found()[: -self._recipe.keep]:
            if not (every and step_of(path) % every == 0):
                shutil.rmtree(path)


_WAY_OUT = "remove this checkpoint to go on from the one before it"


def step_of(path: Path) -> int:
    """Steps done at a checkpoint, from its name."""
    return int(path.name.removeprefix("step-"))


def read_state(path: Path) -> dict[str, Any]:
    """What a checkpoint says of itself.

    Raises:
        CheckpointError: it says nothing, or was written by another version.
    """
    try:
        state = json.loads((path / STATE).read_text("utf-8"))
        version = state["version"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(path, f"{STATE} cannot be read: {error!r}; {_WAY_OUT}") from error
    if version != VERSION:
        raise CheckpointError(path, f"has format {version}, this version reads {VERSION}")
    found: dict[str, Any] = state
    return found


@contextmanager
def _writing(target: Path, partial: Path) -> Iterator[None]:
    """Errors of writing, whatever PyTorch wraps them in, by what caused them."""
    try:
        yield
    except (Exception, CheckpointException) as error:  # the latter is no Exception
        shutil.rmtree(partial, ignore_errors=True)
        cause = _os_error(error)
        last = "; the checkpoints before it are untouched"
        if cause is not None and cause.errno in NO_ROOM:
            raise DiskFullError(target, f"no room to write the checkpoint{last}") from error
        raise CheckpointError(target, f"cannot be written: {cause or error}{last}") from error


def _os_error(error: BaseException | None) -> OSError | None:
    """The failed call to the system behind an error, if there is one."""
    seen: list[BaseException | None] = [error]
    while seen:
        one = seen.pop()
        if isinstance(one, OSError):
            return one
        if one is not None:
            seen += [one.__cause__, one.__context__]
            if isinstance(one, CheckpointException):
                seen += [failure[0] for failure in one.failures.values()]
    return None

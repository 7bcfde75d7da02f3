"""A training process that kills itself: `python -m training_killed CORPUS RUN WHEN`.

WHEN: `save` (in the middle of writing a checkpoint), `publish` (all written, not yet renamed) or
`accumulation` (some rows of a step computed).
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch.distributed.checkpoint import HuggingFaceStorageWriter, filesystem

from omni_diffusion.training import learner
from omni_diffusion.training.parallel import World
from omni_diffusion.training.train import train
from training_runs import tiny_run


def killing(function: Any, times: int) -> Any:
    """The function, but for the call after so many: that is the end."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += torch.is_grad_enabled()  # evaluation does not count
        if calls > times:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return call


def main() -> None:
    """Train until the kill."""
    torch.set_num_threads(1)
    corpus, run, when = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    where, name, times = {
        "save": (filesystem, "_write_item", 130),  # in the second checkpoint
        "publish": (HuggingFaceStorageWriter, "finish", 1),
        "accumulation": (learner, "batch_loss", 3 * 7 + 1),
    }[when]
    with mock.patch.object(where, name, killing(getattr(where, name), times)):
        train(tiny_run(corpus), run, World())


if __name__ == "__main__":
    main()

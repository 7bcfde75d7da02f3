"""Training on an accelerator: tokens a second, MFU, peak memory, and which attention kernel pays.

Two models over the published 176,264 ids: one of half a billion parameters that learns whole, and
the published 7 B shape with low-rank adapters. The loop is the one that `omni-diffusion train` runs
(`training.learner`), on rows of 3,072 from a generated corpus (the mix of `train_plan.py`), each
measurement in a process of its own. Weights are random: speed does not depend on them.

Without an accelerator nothing is measured and nothing is claimed. `--tiny` runs the same code with
a model of a few thousand parameters on whatever there is, to show that it works.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import train_plan  # noqa: E402
from benchmarks.processes import in_process  # noqa: E402
from benchmarks.results import tell  # noqa: E402

SHAPES: Final[dict[str, dict[str, Any]]] = {
    "0.5b": {
        "sizes": {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
        },
    },
    "7b-lora": {
        "sizes": {
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
        },
        "lora": {"rank": 64, "alpha": 128, "fully_trained": []},
        "activation_checkpointing": True,
    },
    "tiny": {
        "sizes": {
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
    },
}
"""The first is that of Qwen2.5-0.5B, the second that of Dream-7B."""

KERNELS: Final = ("flex", "segments")
"""FlexAttention over the block mask, and one scaled dot product attention a run of samples."""

Fields = dict[str, Any]


def task_train(shape: str, kernel: str, root: str, steps: int, rows: int, device: str) -> Fields:
    """Some steps of one shape with one kernel; the first two only warm up."""
    from omni_diffusion.backbone import attention, dream
    from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
    from omni_diffusion.training.learner import Learner
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.parallel import join_world
    from omni_diffusion.training.train_recipe import TrainRecipe

    chosen = attention.attend_segments if kernel == "segments" else attention.attend
    data_recipe = train_plan.recipe_of(root, rows_per_step=rows, window_rows=max(64, rows))
    recipe = TrainRecipe.model_validate(
        {
            "model": SHAPES[shape] | {"dtype": "float32" if device == "cpu" else "bfloat16"},
            "data": data_recipe,
            "optim": {"steps": steps},
            "run": {"device": device, "rows_per_pass": min(rows, 2)},
        }
    )
    data = open_data(recipe.data)
    if shape != "tiny":  # ids stay those of the demo tokenizer; the output layer is the real one
        data.template.vocabulary = Vocabulary(PUBLISHED_TEXT_SIZE)
    with (
        patch.object(dream, "attend", chosen),
        join_world(device) as world,
        Loader(data, recipe.masking) as loader,
    ):
        learner = Learner(recipe, data, world)
        batches = learner.meter.timed(loader.batches(0, steps + 2))
        for step, batch in enumerate(batches):
            learner.step(batch, step)
            if step == 1:
                learner.meter.restart()
        record = learner.meter.record("train", steps)
    names = ("useful_tokens_per_s", "mfu", "memory_mb", "fill", "data_wait_s", "seconds")
    return {name: record[name] for name in names} | {
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "trained": sum(p.numel() for p in learner.parameters.values()),
    }


def benchmark(shapes: list[str], steps: int, rows: int, shard_rows: int, device: str) -> Fields:
    """Every shape with every kernel that the device has."""
    kernels = KERNELS if device == "cuda" else KERNELS[1:]
    found: Fields = {"device": torch.cuda.get_device_name() if device == "cuda" else "CPU"}
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch) / "corpus"
        train_plan.make_group(root, 2, shard_rows)
        for shape in shapes:
            arguments: Fields = {"shape": shape, "root": str(root), "steps": steps, "rows": rows}
            runs: dict[str, Fields] = {
                kernel: in_process(__file__, "train", kernel=kernel, device=device, **arguments)
                for kernel in kernels
            }
            fastest = max(runs, key=lambda kernel: runs[kernel]["useful_tokens_per_s"])
            found[shape] = {"kernel": fastest, **runs[fastest], "kernels": runs}
    return found


def main(
    steps: int = typer.Option(20, help="Steps, after two that warm up."),
    rows: int = typer.Option(16, help="Rows of a step."),
    tiny: bool = typer.Option(False, help="A tiny model on whatever there is: shows that it runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write figures to benchmarks/results/gpu.json."),
    task: str = typer.Option("", hidden=True),
) -> None:
    """Measure training on an accelerator; without one, say so."""
    if task:
        print(json.dumps(task_train(**json.loads(task)[1])))
        return
    there = torch.cuda.is_available()
    if tiny:
        figures = benchmark(["tiny"], 2, 2, 64, "cuda" if there else "cpu")
        figures["claim"] = "none: a tiny model, to show that the benchmark runs"
    elif there:
        figures = benchmark(["0.5b", "7b-lora"], steps, rows, 2048, "cuda")
    else:
        figures = {"device": None, "claim": "none: there is no accelerator on this machine"}
    tell("gpu", figures, keep=keep, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)

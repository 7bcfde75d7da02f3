"""Training: useful tokens a CPU second and memory, against a loop that works the published way.

Both loops read the same corpus (the mix of `train_plan.py`) and train the same tiny network from
the same weights, with an output layer of the published 176,264 ids, one row of 3,072 at a time and
with the same optimizer; ours is the one that `omni-diffusion train` runs. Each runs in a process of
its own on one thread, alternating. Useful tokens are those of samples: no tail pads, no padding.
CPU time includes reading, packing and masking.

The figures of `train_plan.py` and `train_masking.py` are reported as well, so that this file says
everything about training.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import typer

# This folder holds a module that is named as the library `tokenizers` is.
sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import train_masking, train_plan  # noqa: E402
from benchmarks.processes import in_process, peak_rss_mb, run_task  # noqa: E402
from benchmarks.results import kept, save, tell  # noqa: E402

SHARDS = 8
ROW = 3072
RATE = 1e-3
SIZES = {
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}

Fields = dict[str, Any]


def training_recipe(root: str, rows: int, length: int) -> Any:
    """The recipe of our loop; the published one starts from its weights."""
    from omni_diffusion.training.train_recipe import TrainRecipe

    return TrainRecipe.model_validate(
        {
            "model": {"sizes": SIZES, "dtype": "float32"},
            "data": train_plan.recipe_of(
                root, rows_per_step=rows, window_rows=1024, row_length=length
            ),
            "optim": {"steps": 1000, "learning_rate": RATE, "schedule": "constant", "warmup": 0.0},
            "run": {"device": "cpu", "rows_per_pass": 1},
        }
    )


def measure(step: Callable[[int], int], steps: int, rows: int) -> Fields:
    """Figures of some steps after one that only warms up; a step says its useful tokens."""
    step(0)
    cpu, wall = time.process_time(), time.perf_counter()
    useful = sum(step(number) for number in range(1, steps + 1))
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "useful_tokens_per_cpu_s": useful / cpu_s,
        "useful_tokens_per_row": useful / steps / rows,
        "cpu_s": cpu_s,
        "wall_s": wall_s,
        "peak_rss_mb": peak_rss_mb(),
    }


def task_ours(root: str, steps: int, rows: int, length: int) -> Fields:
    """The loop of `omni-diffusion train`: loader, masking, packed attention, head, optimizer."""
    from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
    from omni_diffusion.training.learner import Learner
    from omni_diffusion.training.loader import Loader
    from omni_diffusion.training.opening import open_data
    from omni_diffusion.training.parallel import World

    torch.set_num_threads(1)
    recipe = training_recipe(root, rows, length)
    data = open_data(recipe.data)
    data.template.vocabulary = Vocabulary(PUBLISHED_TEXT_SIZE)  # ids stay; the layer is larger
    learner = Learner(recipe, data, World())
    with Loader(data, recipe.masking) as loader:
        batches = loader.batches(0, steps + 1)

        def step(number: int) -> int:
            batch = next(batches)
            learner.step(batch, number)
            return int(batch.samples.length.sum() - batch.tail.sum())

        return measure(step, steps, rows)


def task_published(root: str, steps: int, rows: int, length: int) -> Fields:
    """The published way; see `published_loop.py`."""
    from benchmarks import published_loop as published
    from omni_diffusion.tokenize.chat import ChatTemplate
    from omni_diffusion.tokenize.text import TextTokenizer
    from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
    from omni_diffusion.training.model import build_model

    torch.set_num_threads(1)
    recipe = training_recipe(root, rows, length)
    template = ChatTemplate(TextTokenizer.from_pretrained("demo"))
    ids = template.vocabulary.end_of_text_id, template.vocabulary.mask_id
    ours = build_model(recipe.model, Vocabulary(PUBLISHED_TEXT_SIZE))
    model = published.qwen2(ours.config, ours.state_dict())
    del ours
    betas, clip = recipe.optim.betas, recipe.optim.clip
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=betas, weight_decay=0.0)
    packed, rng = published.rows(root, template, 0, length), np.random.default_rng(1)

    def step(_number: int) -> int:
        useful = 0
        for row in itertools.islice(packed, rows):
            inputs = published.collate(row, rng, *ids, length)
            loss = published.loss_of(model, inputs) / rows
            loss.backward()  # type: ignore[no-untyped-call]
            useful += row.useful
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
        return useful

    return measure(step, steps, rows)


TASKS: dict[str, Callable[..., Fields]] = {"ours": task_ours, "published": task_published}


def benchmark_step(
    shard_rows: int, steps: int, rows: int, repeats: int, length: int = ROW
) -> Fields:
    """Both loops, alternating; medians."""
    with tempfile.TemporaryDirectory() as scratch:
        root = f"{scratch}/corpus"
        train_plan.make_group(Path(root), SHARDS, shard_rows)
        runs: dict[str, list[Fields]] = {name: [] for name in TASKS}
        for _ in range(repeats):
            for name, found in runs.items():
                found.append(
                    in_process(__file__, name, root=root, steps=steps, rows=rows, length=length)
                )

    def middle(loop: str, figure: str) -> float:
        return float(median(found[figure] for found in runs[loop]))

    rates = {loop: middle(loop, "useful_tokens_per_cpu_s") for loop in TASKS}
    memory = {loop: middle(loop, "peak_rss_mb") for loop in TASKS}
    return {
        "useful_tokens_ratio": round(rates["ours"] / rates["published"], 2),
        "peak_rss_ratio": round(memory["ours"] / memory["published"], 3),
        "useful_tokens_per_cpu_s": {loop: round(rate) for loop, rate in rates.items()},
        "useful_tokens_per_row": {
            loop: round(middle(loop, "useful_tokens_per_row")) for loop in TASKS
        },
        "peak_rss_mb": {loop: round(size) for loop, size in memory.items()},
        "steps": steps,
        "rows_per_step": rows,
        "row_length": length,
        "repeats": repeats,
    }


def main(
    steps: int = typer.Option(2, help="Steps of each loop, after one that warms up."),
    repeats: int = typer.Option(3, help="Alternating runs of the two loops."),
    rows: int = typer.Option(100_000_000, help="Rows of the generated index."),
    draws: int = typer.Option(8000, help="Draws of each masking."),
    only: str = typer.Option("", help="One part: step, plan or masking."),
    short: bool = typer.Option(False, help="A small pass that only shows that everything runs."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
    keep: bool = typer.Option(False, help="Write figures to benchmarks/results/train_step.json."),
    task: str = typer.Option("", hidden=True),
) -> None:
    """Measure training: the loop, the plan and loader, and the masking."""
    if task:
        run_task(TASKS, task)
        return
    parts: dict[str, Callable[[], Fields]] = {
        "step": lambda: benchmark_step(2048, steps, 2, repeats),
        "plan": lambda: train_plan.benchmark(rows, 1_000_000, 3),
        "masking": lambda: train_masking.benchmark(draws),
    }
    if short:
        parts = {
            "step": lambda: benchmark_step(64, 1, 1, 1, 1792),
            "plan": lambda: train_plan.benchmark(60_000, 20_000, 1, 400),
            "masking": lambda: train_masking.benchmark(50),
        }
    if only and only not in parts:
        raise typer.BadParameter(f"{only!r} is none of {', '.join(parts)}")
    figures: Fields = {}
    for name, part in parts.items():
        if only in ("", name):
            figures |= part()
            if keep:
                save("train_step", kept("train_step") | figures)
    tell("train_step", figures, keep=False, as_json=as_json)


if __name__ == "__main__":
    typer.run(main)

"""Training, from a recipe to a model. `learner.py` is what happens within a step.

A run folder holds

    recipe.yaml      what is in force
    metrics.jsonl    a line a step, and one for each evaluation (see `metrics`)
    checkpoints/     the state every so many steps (see `checkpoint`)
    model/           the trained model in the published layout (see `export`)

Started again, a run goes on from its newest checkpoint and ends as if nothing had happened: rows,
masks and rates are functions of the step, weights and moments come from the checkpoint, and
metrics.jsonl is cut back to it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from torch import nn

from omni_diffusion.training.checkpoint import Checkpoints
from omni_diffusion.training.learner import Learner
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.metrics_file import cut_back
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.parallel import World
from omni_diffusion.training.run_folder import StopSignals, claim
from omni_diffusion.training.sinks import Sink, Sinks, open_sinks
from omni_diffusion.training.train_recipe import TrainRecipe

CHECKPOINTS: Final = "checkpoints"
MODEL: Final = "model"

OnSample = Callable[[int, nn.Module], None]
"""Called on every rank with the number of steps done and the model, in evaluation mode."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        step: steps done.
        steps: steps of the whole run.
        resumed: step that it went on from; None after a fresh start.
        model: folder of the trained model; None if the run was stopped before its end.
        signal: what this process was asked to stop by; None if it was another one, or nothing.
    """

    step: int
    steps: int
    resumed: int | None
    model: str | None
    signal: str | None


def train(
    recipe: TrainRecipe,
    run: Path,
    world: World,
    *,
    show: Callable[[int, int], Sink] | None = None,
    on_sample: OnSample | None = None,
) -> Outcome:
    """Train until all steps are done, or a signal asks to stop. Every rank must call this.

    Args:
        recipe: what to do.
        run: folder of the run, shared by all ranks; made if it is not there.
        world: this process among the others (`parallel.join_world`).
        show: makes, of all steps and those done, a sink that gets every record too; on rank 0.
        on_sample: called every `run.samples_every` steps.

    Raises:
        TrainingError: a loss or gradient that is not finite, or a spike; names the samples.
        OmniError: recipe, corpora, checkpoint and folder do not fit together, a sample is damaged
            and the recipe says to stop, or the disk is full.
    """
    claim(run, recipe, world)
    data = open_data(recipe.data)
    learner = Learner(recipe, data, world)
    store = Checkpoints(run / CHECKPOINTS, recipe.run.checkpoints, world)
    resumed = learner.resume(store)
    done, steps, often = resumed or 0, recipe.optim.steps, recipe.run

    def due(every: int | None) -> bool:
        return every is not None and (done % every == 0 or done == steps)

    with ExitStack() as stack:
        stack.callback(store.finish)  # also after an error: what was saved before it is good
        asked = stack.enter_context(StopSignals())
        place = {"rank": world.rank, "world_size": world.size}
        loader = stack.enter_context(Loader(data, recipe.masking, **place))
        sinks = Sinks([])
        if world.first:
            cut_back(run, -1 if resumed is None else resumed)
            others = [show(steps, done)] if show else []
            sinks = stack.enter_context(open_sinks(run, recipe.metrics, done, *others))
        if resumed is None and often.evaluate_every:
            learner.evaluate(loader, sinks, done)
        batches = learner.meter.timed(loader.batches(done, steps))
        learner.meter.restart()
        while done < steps:
            batch = learner.agree_on(batches, store, stopping=asked.came is not None)
            if batch is None:
                break
            learner.step(batch, done)
            done += 1
            learner.tell_faults(sinks, batch, done)
            learner.report(sinks, done, last=done == steps)
            if due(often.evaluate_every):
                learner.evaluate(loader, sinks, done)
            if on_sample is not None and due(often.samples_every):
                learner.sample(on_sample, done)
            if due(often.checkpoints.every):
                store.save(done, learner.tensors(), learner.state(done))
        if done > (resumed or 0):
            store.save(done, learner.tensors(), learner.state(done))
    if done == steps:
        learner.export(run / MODEL)
    return Outcome(
        step=done,
        steps=steps,
        resumed=resumed,
        model=str(run / MODEL) if done == steps else None,
        signal=asked.came,
    )

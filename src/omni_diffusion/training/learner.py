"""A model that learns: one optimizer step after another, and what must be kept of it.

The loss of a step is one sum over all its rows, wherever they are computed: rows are cut into parts
that fit into memory, parts are shared out among ranks, and all of them are divided by the same
denominator, which is known before the first part is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from omni_diffusion.errors import CheckpointError, OmniError, TrainingError
from omni_diffusion.training.batch import Batch
from omni_diffusion.training.checkpoint import Checkpoints, read_state
from omni_diffusion.training.export import export_model
from omni_diffusion.training.flops import ModelFlops, peak_flops
from omni_diffusion.training.forward import batch_loss, prepare, weight_of
from omni_diffusion.training.guard import Guard, Scored, suspects
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.metrics import Meter
from omni_diffusion.training.model import build_model
from omni_diffusion.training.noise import word
from omni_diffusion.training.opening import TrainingData
from omni_diffusion.training.optim import (
    MOMENTS,
    MovingAverage,
    build_optimiser,
    clip,
    learning_rate,
    set_moments,
    trained,
)
from omni_diffusion.training.parallel import DTYPES, World, computing, lay_out
from omni_diffusion.training.sinks import Sinks
from omni_diffusion.training.train_recipe import TrainRecipe


class Learner:
    """Model, optimizer and average of a run.

    Args:
        recipe: of the run.
        data: its opened corpora.
        world: this process among the others.

    Attributes:
        model: in training mode between calls.
        meter: counts what is computed.

    Raises:
        OmniError: the model cannot be built.
    """

    def __init__(self, recipe: TrainRecipe, data: TrainingData, world: World) -> None:
        self.recipe, self.data, self.world = recipe, data, world
        wide = torch.float64 if recipe.model.dtype == "float64" else torch.float32
        # Next to adapters the weights rest, and may be kept as they are computed with.
        dtype = DTYPES[recipe.model.dtype] if recipe.model.lora else wide
        self.model = build_model(
            recipe.model,
            data.template.vocabulary,
            device=world.device,
            dtype=dtype,
            lay_out=lambda model: lay_out(model, recipe.model, world),
        ).train()
        self.parameters = trained(self.model)
        self.optimiser = build_optimiser(self.parameters, recipe.optim)
        decay = recipe.optim.ema
        self.average = MovingAverage(self.parameters, decay) if decay else None
        self.guard = Guard(recipe.run.guard)
        peak = recipe.metrics.peak_tflops
        self._examiner = Meter(data.tasks, world.device)
        self.meter = Meter(
            data.tasks,
            world.device,
            flops=ModelFlops.of(self.model),
            peak_flops=peak * 1e12 if peak else peak_flops(world.device),
        )
        self._denominator, self._left_out = 1.0, 0.0
        self._since_report: list[tuple[float, float, float]] = []

    def agree_on(
        self, batches: Iterator[Batch], store: Checkpoints, *, stopping: bool
    ) -> Batch | None:
        """The next batch, unless any rank was asked to stop, or has met with an error.

        Raises:
            OmniError: on all ranks, what happened to one of them.
        """
        batch: Batch | None = None
        error: OmniError | None = None
        try:
            store.poll()
            batch = next(batches)
        except OmniError as met:
            error = met
        weight = weight_of(batch, self.recipe.masking) if batch else 0.0
        faults = len(batch.faults) if batch else 0
        self._denominator, self._left_out, errors, stops = self.world.sums(
            weight, faults, error is not None, stopping
        )
        if errors:
            self._raise(error)
        return None if stops else batch

    def _raise(self, error: OmniError | None) -> None:
        """Raise an error that one rank has met with on all of them."""
        told = self.world.gathered(str(error) if error else None)
        if error is not None:
            raise error
        rank, text = next((rank, text) for rank, text in enumerate(told) if text)
        raise TrainingError(f"rank {rank} stopped: {text}")

    def step(self, batch: Batch, step: int) -> None:
        """Learn from this rank's rows of a step, counted from 0.

        Raises:
            TrainingError: the step must not be applied; names the samples.
        """
        torch.manual_seed(word("dropout", self.recipe.data.seed, step, self.world.rank))
        denominator = max(self._denominator, 1.0)
        loss = torch.zeros((), dtype=torch.float64, device=self.world.device)
        scored: list[Scored] = []
        for part in batch.parts(self.recipe.run.rows_per_pass):
            inputs = prepare(part, self.world.device)
            with computing(self.recipe.model, self.world):
                found = batch_loss(self.model, inputs, denominator)
            found.loss.backward()  # type: ignore[no-untyped-call]
            loss += found.loss.detach()
            scored.append((part, inputs.places, found.per_target))
            self.meter.add(part, inputs.places, found.per_target, found.loss)
        (whole,) = self.world.sums(float(loss))
        norm = clip(self.parameters, self.recipe.optim.clip)
        if fault := self.guard.fault(whole, norm):
            self._refuse(fault, step, scored)
        rate = learning_rate(self.recipe.optim, step)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self.average.update()
        self._since_report.append((whole, norm, rate))

    def _refuse(self, fault: str, step: int, scored: list[Scored]) -> None:
        names = [source.name for source in self.data.sources]
        told = [pair for part in self.world.gathered(suspects(scored, names)) for pair in part]
        listed = "\n".join(f"  {loss:8.4g}  {name}" for loss, name in told)
        raise TrainingError(
            f"stopped before step {step} was applied: {fault}. Its samples with their mean loss, "
            f"the worst ones:\n{listed}\n`omni-diffusion batch RECIPE --step {step}` shows all. "
            "The newest checkpoint is from before it"
        )

    def tell_faults(self, sinks: Sinks, batch: Batch, done: int) -> None:
        """Write a record for each sample of the step that could not be read, on any rank."""
        if not self._left_out:
            return
        told = self.world.gathered([asdict(fault) for fault in batch.faults])
        for fault in (fault for faults in told for fault in faults):
            sinks.write({"kind": "left_out"} | fault | {"step": done})

    def report(self, sinks: Sinks, done: int, *, last: bool) -> None:
        """Write a record of the steps since the last one, where it is time."""
        if done % self.recipe.metrics.every and not last:
            return
        losses = [loss for loss, _, _ in self._since_report]
        _, norm, rate = self._since_report[-1]
        values = {"loss": sum(losses) / len(losses), "grad_norm": norm, "lr": rate}
        sinks.write(self.meter.record("train", done, values))
        self._since_report = []

    @torch.no_grad()
    def evaluate(self, loader: Loader, sinks: Sinks, done: int) -> None:
        """Loss on the fixed evaluation stream, with its fixed noise.

        Raises:
            OmniError: on all ranks, if a sample is damaged and the recipe says to stop.
        """
        if not self.data.evaluation:
            return
        self.model.eval()
        self._examiner.restart()
        whole = 0.0
        batches = loader.evaluation()
        for _ in self.data.evaluation:
            batch: Batch | None = None
            error: OmniError | None = None
            try:
                batch = next(batches)
            except OmniError as met:
                error = met
            weight, errors = self.world.sums(
                weight_of(batch, self.recipe.masking) if batch else 0.0, error is not None
            )
            if errors or batch is None:
                self._raise(error)
                continue
            whole += weight
            for part in batch.parts(self.recipe.run.rows_per_pass):
                inputs = prepare(part, self.world.device)
                with computing(self.recipe.model, self.world):
                    found = batch_loss(self.model, inputs, 1.0)
                self._examiner.add(part, inputs.places, found.per_target, found.loss)
        record = self._examiner.record("eval", done)
        sinks.write(record | {"loss": record["loss"] / max(whole, 1.0)})
        self._back_to_training()

    def sample(self, on_sample: Callable[[int, nn.Module], None], done: int) -> None:
        """Hand the model out to whoever wants to see what it can do."""
        self.model.eval()
        with torch.no_grad(), computing(self.recipe.model, self.world):
            on_sample(done, self.model)
        self._back_to_training()

    def _back_to_training(self) -> None:
        self.model.train()
        if not self._since_report:
            self.meter.restart()  # the clock, too

    def tensors(self) -> dict[str, Tensor]:
        """Everything that learning changes, by name: what a checkpoint holds."""
        found = {f"model/{name}": p.detach() for name, p in self.parameters.items()}
        for name, parameter in self.parameters.items():
            for moment in MOMENTS:
                found[f"{moment}/{name}"] = self.optimiser.state[parameter][moment]
        if self.average is not None:
            found |= {f"ema/{name}": value for name, value in self.average.values.items()}
        return found

    def state(self, done: int) -> dict[str, Any]:
        """The rest of a checkpoint: JSON."""
        return {"losses": list(self.guard.losses), **self._identity(), **self.data.plan.state(done)}

    def _identity(self) -> dict[str, Any]:
        prints: dict[str, str] = {}
        for source in self.data.sources:
            prints |= source.manifest.fingerprints
        vocabulary = self.data.template.vocabulary
        return {
            "vocabulary": {"size": vocabulary.size, "text_size": vocabulary.text_size, **prints},
            "model": asdict(self.model.config),
        }

    def resume(self, store: Checkpoints) -> int | None:
        """Take up the newest checkpoint. Gives back its step, or None where there is none.

        Raises:
            CheckpointError: it is damaged, or of another vocabulary or model; says which.
            PlanError: it is of another plan; says in what.
        """
        if not (found := store.found()):
            return None
        path, state = found[-1], read_state(found[-1])
        for what, ours in self._identity().items():
            theirs = state.get(what, {})
            for name in sorted({*theirs, *ours}):
                was, now = theirs.get(name, "(none)"), ours.get(name, "(none)")
                if was != now:
                    reason = f"is of another {what}: {name} was {was!r} and is {now!r}"
                    raise CheckpointError(path, reason)
        step = self.data.plan.resume(state)
        store.load(path, self.tensors())
        set_moments(self.optimiser, step)
        self.guard = Guard(self.recipe.run.guard, state["losses"])
        return step

    def export(self, folder: Path) -> None:
        """Write the trained model for others: the average, where there is one."""
        recipe, identity = self.recipe, self._identity()
        about = {
            "tokenizer": recipe.data.tokenizer,
            "vocabulary": identity["vocabulary"],
            "steps": recipe.optim.steps,
            "plan": self.data.plan.digest,
            "tasks": self.data.tasks,
            "weights": "average" if self.average else "last",
            "masking": recipe.masking.model_dump(mode="json"),
            "tail_pads": recipe.data.tail_pads,
            "prompt_dropout": recipe.data.prompt_dropout,
            "row_length": recipe.data.row_length,
        }
        export_model(
            folder,
            self.model,
            self.average.values if self.average else {},
            tokenizer=recipe.data.tokenizer,
            about=about,
            dtype=torch.bfloat16 if recipe.model.dtype == "bfloat16" else torch.float32,
            world=self.world,
        )

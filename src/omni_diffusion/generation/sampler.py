"""The sampler: `prepare`, then `denoise_step` until nothing is hidden, then `finish`.

A state holds any mix of answers: of different lengths, tasks and progress. A step runs the model
once over all that are unfinished, side by side in one packed row, scores the tokens that the step
may keep, and keeps some. Only those tokens go through the output layer, and only the ids that they
may become. Every answer has draws of its own, so it comes out the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.generation import guidance, orders
from omni_diffusion.generation.forward import Passes, Sample
from omni_diffusion.generation.request import Request
from omni_diffusion.generation.sampler_recipe import SamplerRecipe
from omni_diffusion.generation.scoring import Rows, decide


class Noise:
    """The draws of one answer, in the order in which it asks for them."""

    def __init__(self, seed: int) -> None:
        """Begin at a seed."""
        self._generator = torch.Generator().manual_seed(seed)

    def uniform(self, count: int) -> Tensor:
        """Numbers in 0..1, float32 [count]."""
        return torch.rand(count, generator=self._generator)


@dataclass(eq=False)
class Progress:
    """One answer under way.

    Attributes:
        request: what was asked.
        ids: int64 [L], on the CPU, as far as it has come.
        noise: its draws.
        blocks: start and end of each block, those before the present one taken off.
        times: of the present block's steps.
        step: step of the present block.
        steps_done: steps of all blocks.
        steps: how many there will be at most.
        history: states after each step, where they are kept.
    """

    request: Request
    ids: Tensor
    noise: Noise
    blocks: list[tuple[int, int]]
    steps: int
    times: Tensor = field(default_factory=lambda: torch.zeros(0))
    step: int = 0
    steps_done: int = 0
    history: list[Tensor] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return not self.blocks


@dataclass(eq=False)
class State:
    """Answers under way.

    Attributes:
        recipe: how they are denoised.
        mask_id: what hides a token.
        answers: one for each request, in order.
        passes: through the model, and their count so far.
        keep_history: whether the states after every step are kept.
    """

    recipe: SamplerRecipe
    mask_id: int
    answers: list[Progress]
    passes: Passes
    keep_history: bool = False

    @property
    def done(self) -> bool:
        """Whether every answer is finished."""
        return all(answer.done for answer in self.answers)


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What came out.

    Attributes:
        ids: int64 [L], prompt and answer.
        answer: int64, the answer alone.
        steps: steps it took.
        history: int64 [steps, L], where it was asked for.
    """

    ids: Tensor
    answer: Tensor
    steps: int
    history: Tensor | None


@dataclass(frozen=True, eq=False)
class _Turn:
    """The tokens of one answer that a step considers.

    Attributes:
        progress: the answer.
        positions: int64 [n], where they are.
        rank: int64 [n], their place among all that the position penalty counts.
        count: how many it counts.
    """

    progress: Progress
    positions: Tensor
    rank: Tensor
    count: int


def prepare(
    config: DreamConfig,
    requests: Sequence[Request],
    recipe: SamplerRecipe,
    *,
    keep_history: bool = False,
) -> State:
    """Check requests and set them up.

    Args:
        config: of the model.
        requests: what to answer.
        recipe: how.
        keep_history: keep the state after every step.

    Raises:
        RequestError: the model cannot answer one of them; says which and why.
    """
    answers = []
    for request in requests:
        request.check(config, guided=recipe.guidance > 0)
        start, end = request.answer_start, len(request.ids)
        size = recipe.block_size or end - start
        progress = Progress(
            request=request,
            ids=request.ids.clone(),
            noise=Noise(request.seed),
            blocks=[(at, min(at + size, end)) for at in range(start, end, size)],
            steps=min(recipe.steps, end - start),
        )
        _open_block(progress, recipe, config.mask_token_id)
        answers.append(progress)
    passes = Passes(recipe.cache_refresh)
    return State(recipe, config.mask_token_id, answers, passes, keep_history)


@torch.no_grad()
def denoise_step(model: Dream, state: State) -> None:
    """Take every unfinished answer one step further, in place."""
    recipe = state.recipe
    turns = [_consider(p, recipe, state.mask_id) for p in state.answers if not p.done]
    scored = [turn for turn in turns if len(turn.positions)]
    if scored:
        hidden = _forward(model, scored, state)
        rows = _rows(scored, recipe, model.config).to(hidden.device)
        ids, confidences, probabilities = decide(model, hidden, rows, recipe)
        sizes = [len(turn.positions) for turn in scored]
        parts = (torch.split(x.cpu(), sizes) for x in (ids, confidences, probabilities))
        for turn, chosen, confidence, probability in zip(scored, *parts, strict=True):
            kept = _kept(turn, confidence, probability, recipe)
            turn.progress.ids[turn.positions[kept]] = chosen[kept]
    for turn in turns:
        if state.keep_history:
            turn.progress.history.append(turn.progress.ids.clone())
        _advance(turn.progress, recipe, state.mask_id)


def finish(state: State) -> list[Answer]:
    """The answers, in the order of the requests."""
    return [
        Answer(
            ids=p.ids,
            answer=p.ids[p.request.answer_start :],
            steps=p.steps_done,
            history=torch.stack(p.history) if p.history else None,
        )
        for p in state.answers
    ]


def generate(model: Dream, requests: Sequence[Request], recipe: SamplerRecipe) -> list[Answer]:
    """Answer requests in one batch.

    Raises:
        RequestError: the model cannot answer one of them.
    """
    state = prepare(model.config, requests, recipe)
    while not state.done:
        denoise_step(model, state)
    return finish(state)


def _hidden(progress: Progress, start: int, end: int, mask_id: int) -> Tensor:
    """Positions of the hidden tokens from `start` to `end`."""
    return torch.nonzero(progress.ids[start:end] == mask_id)[:, 0] + start


def _open_block(progress: Progress, recipe: SamplerRecipe, mask_id: int) -> None:
    """Go to the first block that has hidden tokens; to the end, where there is none."""
    while progress.blocks and not len(_hidden(progress, *progress.blocks[0], mask_id)):
        progress.blocks.pop(0)
    if progress.blocks:
        start, end = progress.blocks[0]
        length = len(progress.ids) - progress.request.answer_start
        steps = orders.steps_of_block(end - start, length, progress.steps)
        progress.times = orders.schedule(steps, recipe.smallest_time)
        progress.step = 0


def _advance(progress: Progress, recipe: SamplerRecipe, mask_id: int) -> None:
    """Count a step; open the next block where the present one has no step or hidden token left."""
    progress.step += 1
    progress.steps_done += 1
    spent = progress.step == len(progress.times) - 1
    if spent or not len(_hidden(progress, *progress.blocks[0], mask_id)):
        if spent:
            progress.blocks.pop(0)
        _open_block(progress, recipe, mask_id)


def _consider(progress: Progress, recipe: SamplerRecipe, mask_id: int) -> _Turn:
    """Which tokens this step scores: those of the block, or in random order those drawn."""
    everywhere = _hidden(progress, progress.request.answer_start, len(progress.ids), mask_id)
    positions = _hidden(progress, *progress.blocks[0], mask_id)
    if recipe.order != "random":
        rank = torch.searchsorted(everywhere, positions)
        return _Turn(progress, positions, rank, len(everywhere))
    if recipe.random_across_blocks:
        positions = everywhere
    share = orders.kept_share(progress.times, progress.step)
    positions = positions[progress.noise.uniform(len(positions)) < share]
    return _Turn(progress, positions, torch.arange(len(positions)), len(positions))


def _forward(model: Dream, turns: Sequence[_Turn], state: State) -> Tensor:
    """Hidden states that predict the considered tokens, turn by turn: [rows, hidden size]."""
    recipe, samples, twins = state.recipe, [], []
    for turn in turns:
        ids, request = turn.progress.ids, turn.progress.request
        block = turn.progress.blocks[0]
        samples.append(Sample(ids=ids, inserts=request.inserts, block=block, wanted=turn.positions))
        if recipe.guidance > 0:
            alignment = recipe.guidance_alignment
            row, filler = guidance.twin(request, ids, alignment, model.config.hidden_size)
            shift = guidance.twin_shift(request, alignment)
            twins.append(
                Sample(
                    ids=row,
                    inserts=filler,
                    block=(block[0] + shift, block[1] + shift),
                    wanted=turn.positions + shift,
                )
            )
    hidden = state.passes.run(model, samples + twins, [turn.progress for turn in turns])
    if not twins:
        return hidden
    conditional, unconditional = hidden.chunk(2)
    return guidance.guide(conditional, unconditional, recipe.guidance)


def _rows(turns: Sequence[_Turn], recipe: SamplerRecipe, config: DreamConfig) -> Rows:
    """What scoring must know of each considered token."""
    every = torch.tensor([[0, config.vocab_size]])
    allowed, seen = [], torch.zeros(0, 0, dtype=torch.bool)
    for t in turns:
        given = t.progress.request.allowed if recipe.restrict_vocabulary else None
        allowed.append(every.expand(len(t.positions), 2) if given is None else given[t.positions])
    if recipe.repetition_penalty != 1:
        seen = torch.zeros(len(turns), config.vocab_size, dtype=torch.bool)
        for i, t in enumerate(turns):
            # From the second step on; id 0 is spared, as in the published code.
            if t.progress.steps_done:
                seen[i, t.progress.ids[t.progress.request.answer_start :]] = True
        seen[:, [0, config.mask_token_id]] = False
    return Rows(
        owner=torch.repeat_interleave(torch.tensor([len(t.positions) for t in turns])),
        allowed=torch.cat(allowed),
        rank=torch.cat([t.rank for t in turns]),
        count=torch.cat([torch.full_like(t.rank, t.count) for t in turns]),
        place=torch.cat([t.positions - t.progress.request.answer_start for t in turns]),
        elapsed=torch.tensor([t.progress.steps_done / t.progress.steps for t in turns]),
        uniform=torch.cat([t.progress.noise.uniform(len(t.positions)) for t in turns])
        if recipe.temperature > 0
        else None,
        seen=seen,
        forbidden=None if recipe.allow_mask else config.mask_token_id,
    )


def _kept(turn: _Turn, confidence: Tensor, probability: Tensor, recipe: SamplerRecipe) -> Tensor:
    """Which of the considered tokens are kept, bool [n]."""
    kept = torch.ones(len(turn.positions), dtype=torch.bool)
    if recipe.order == "random":
        return kept
    progress = turn.progress
    count = orders.kept_count(len(kept), progress.times, progress.step)
    draws = progress.noise.uniform(len(kept)) if recipe.order_temperature > 0 else None
    surest = orders.surest(confidence, count, recipe.order_temperature, draws)
    kept = torch.zeros(len(kept), dtype=torch.bool)
    kept[surest] = True
    if recipe.threshold is not None:
        kept |= probability >= recipe.threshold
    return kept

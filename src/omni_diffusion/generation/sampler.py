"""The sampler: `prepare`, then `denoise_step` until nothing is hidden, then `finish`.

A state holds any mix of answers: of different lengths, tasks, recipes and progress; `admit` adds
further ones between two steps. A step runs the model once over all that are unfinished, side by
side in one packed row, scores the tokens that the step may keep, and keeps some. Only those tokens
go through the output layer, and only the ids that they may become. Every answer has draws of its
own, so it comes out the same alone and in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.generation import guidance, orders
from omni_diffusion.generation.forward import Passes, Sample
from omni_diffusion.generation.request import Request, RequestError
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
        recipe: how it is denoised.
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
    recipe: SamplerRecipe
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
        config: of the model.
        answers: one for each request, in order.
        passes: through the model, and their count so far.
        keep_history: whether the states after every step are kept.
    """

    config: DreamConfig
    answers: list[Progress]
    passes: Passes
    keep_history: bool = False

    @property
    def mask_id(self) -> int:
        """What hides a token."""
        return self.config.mask_token_id

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
    recipe: SamplerRecipe | Sequence[SamplerRecipe],
    *,
    keep_history: bool = False,
) -> State:
    """Check requests and set them up.

    Args:
        config: of the model.
        requests: what to answer.
        recipe: how: one for all, or one for each.
        keep_history: keep the state after every step.

    Raises:
        RequestError: the model cannot answer one of them, says why; or the recipes disagree about
            the cache, of which a batch has one.
    """
    recipes = [recipe] * len(requests) if isinstance(recipe, SamplerRecipe) else list(recipe)
    refresh = recipes[0].cache_refresh if recipes else None
    state = State(config, [], Passes(refresh), keep_history)
    for request, own in zip(requests, recipes, strict=True):
        admit(state, request, own)
    return state


def admit(state: State, request: Request, recipe: SamplerRecipe) -> Progress:
    """Add a request to those under way.

    Raises:
        RequestError: the model cannot answer it, or it asks for another cache than the others.
    """
    request.check(state.config, guided=recipe.guidance > 0)
    if recipe.cache_refresh != state.passes.refresh:
        raise RequestError(
            f"cache_refresh {recipe.cache_refresh} in a batch of {state.passes.refresh}"
        )
    start, end = request.answer_start, len(request.ids)
    size = recipe.block_size or end - start
    progress = Progress(
        request=request,
        recipe=recipe,
        ids=request.ids.clone(),
        noise=Noise(request.seed),
        blocks=[(at, min(at + size, end)) for at in range(start, end, size)],
        steps=min(recipe.steps, end - start),
    )
    _open_block(progress, state.config)
    state.answers.append(progress)
    return progress


@torch.no_grad()
def denoise_step(model: Dream, state: State) -> None:
    """Take every unfinished answer one step further, in place."""
    turns = [_consider(p, state.mask_id) for p in state.answers if not p.done]
    scored = [turn for turn in turns if len(turn.positions)]
    groups: dict[SamplerRecipe, list[tuple[_Turn, Tensor]]] = {}
    if scored:
        for turn, hidden in zip(scored, _forward(model, scored, state), strict=True):
            groups.setdefault(turn.progress.recipe, []).append((turn, hidden))
    for recipe, group in groups.items():
        hidden = torch.cat([states for _, states in group])
        rows = _rows([turn for turn, _ in group], recipe, model.config).to(hidden.device)
        ids, confidences, probabilities = decide(model, hidden, rows, recipe)
        sizes = [len(turn.positions) for turn, _ in group]
        parts = (torch.split(x.cpu(), sizes) for x in (ids, confidences, probabilities))
        for (turn, _), chosen, confidence, probability in zip(group, *parts, strict=True):
            kept = _kept(turn, confidence, probability)
            turn.progress.ids[turn.positions[kept]] = chosen[kept]
    for turn in turns:
        _stop(turn.progress, state.config)
        if state.keep_history:
            turn.progress.history.append(turn.progress.ids.clone())
        _advance(turn.progress, state.config)


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


def generate(
    model: Dream,
    requests: Sequence[Request],
    recipe: SamplerRecipe | Sequence[SamplerRecipe],
) -> list[Answer]:
    """Answer requests in one batch, by one recipe or each by its own.

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


def _open_block(progress: Progress, config: DreamConfig) -> None:
    """Go to the first block that has hidden tokens; to the end, where there is none."""
    mask_id = config.mask_token_id
    while progress.blocks and not len(_hidden(progress, *progress.blocks[0], mask_id)):
        progress.blocks.pop(0)
    if progress.blocks:
        start, end = progress.blocks[0]
        length = len(progress.ids) - progress.request.answer_start
        steps = orders.steps_of_block(end - start, length, progress.steps)
        progress.times = orders.schedule(steps, progress.recipe.smallest_time)
        progress.step = 0


def _stop(progress: Progress, config: DreamConfig) -> None:
    """Fill what follows the answer's end, where the recipe wants that and all before it is known.

    An end of turn that was kept behind hidden tokens ends nothing yet: an earlier one may come.
    """
    if not progress.recipe.stop_at_end or not progress.request.ends:
        return
    answer = progress.ids[progress.request.answer_start :]
    hidden = answer == config.mask_token_id
    ends = torch.nonzero(torch.isin(answer, torch.tensor(progress.request.ends)))[:, 0]
    if len(ends) and not hidden[: ends[0]].any():
        answer[ends[0] + 1 :][hidden[ends[0] + 1 :]] = config.pad_token_id


def _advance(progress: Progress, config: DreamConfig) -> None:
    """Count a step; open the next block where the present one has no step or hidden token left."""
    progress.step += 1
    progress.steps_done += 1
    spent = progress.step == len(progress.times) - 1
    if spent or not len(_hidden(progress, *progress.blocks[0], config.mask_token_id)):
        if spent:
            progress.blocks.pop(0)
        _open_block(progress, config)


def _consider(progress: Progress, mask_id: int) -> _Turn:
    """Which tokens this step scores: those of the block, or in random order those drawn."""
    recipe = progress.recipe
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


def _forward(model: Dream, turns: Sequence[_Turn], state: State) -> list[Tensor]:
    """Hidden states that predict the considered tokens, for each turn [rows, hidden size]."""
    samples, twins = [], []
    for turn in turns:
        ids, request, recipe = turn.progress.ids, turn.progress.request, turn.progress.recipe
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
    rows = samples + twins
    hidden = state.passes.run(model, rows, [turn.progress for turn in turns])
    parts = torch.split(hidden, [len(row.wanted) for row in rows])
    compared = iter(parts[len(samples) :])
    return [
        guidance.guide(own, next(compared), turn.progress.recipe.guidance)
        if turn.progress.recipe.guidance > 0
        else own
        for turn, own in zip(turns, parts, strict=False)
    ]


def _rows(turns: Sequence[_Turn], recipe: SamplerRecipe, config: DreamConfig) -> Rows:
    """What scoring must know of each considered token."""
    seen = torch.zeros(0, 0, dtype=torch.bool)
    if recipe.repetition_penalty != 1:
        seen = torch.zeros(len(turns), config.vocab_size, dtype=torch.bool)
        for i, t in enumerate(turns):
            # From the second step on; id 0 is spared, as in the published code.
            if t.progress.steps_done:
                seen[i, t.progress.ids[t.progress.request.answer_start :]] = True
        seen[:, [0, config.mask_token_id]] = False
    return Rows(
        owner=torch.repeat_interleave(torch.tensor([len(t.positions) for t in turns])),
        allowed=_allowed(turns, recipe, config),
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


def _allowed(turns: Sequence[_Turn], recipe: SamplerRecipe, config: DreamConfig) -> Tensor:
    """Ranges of ids for each considered token, int64 [n, r, 2], as many as any request has."""
    every = torch.tensor([[[0, config.vocab_size]]])
    ranges = []
    for turn in turns:
        given = turn.progress.request.allowed if recipe.restrict_vocabulary else None
        n = len(turn.positions)
        ranges.append(every.expand(n, 1, 2) if given is None else given[turn.positions])
    most = max(r.shape[1] for r in ranges)
    return torch.cat([functional.pad(r, (0, 0, 0, most - r.shape[1])) for r in ranges])


def _kept(turn: _Turn, confidence: Tensor, probability: Tensor) -> Tensor:
    """Which of the considered tokens are kept, bool [n]."""
    recipe = turn.progress.recipe
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

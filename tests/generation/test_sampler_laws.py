"""What holds for every answer, whatever the settings: the laws of the sampler."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dreams import tiny_dream, tiny_speech
from omni_diffusion.backbone.dream import Inserts
from omni_diffusion.errors import RecipeError
from omni_diffusion.generation.forward import Passes, Sample
from omni_diffusion.generation.request import Request, RequestError
from omni_diffusion.generation.sampler import (
    Answer,
    admit,
    denoise_step,
    finish,
    generate,
    prepare,
)
from omni_diffusion.generation.sampler_recipe import PRESETS, SamplerRecipe, preset
from omni_diffusion.recipe import load_recipe

VOCAB = 50
MODEL = tiny_dream(VOCAB, speech=tiny_speech())
MASK = MODEL.config.mask_token_id
ORDERS = ("random", "confidence", "margin", "entropy")


@st.composite
def recipes(draw) -> SamplerRecipe:
    order = draw(st.sampled_from(ORDERS))
    sure = order != "random"
    return SamplerRecipe(
        steps=draw(st.integers(1, 12)),
        block_size=draw(st.none() | st.integers(1, 12)),
        order=order,
        order_temperature=draw(st.sampled_from([0.0, 0.5])) if sure else 0.0,
        threshold=draw(st.sampled_from([None, 0.3])) if sure else None,
        temperature=draw(st.sampled_from([0.0, 1.0])),
        top_k=draw(st.sampled_from([None, 1, 7])),
        top_p=draw(st.sampled_from([1.0, 0.8])),
        repetition_penalty=draw(st.sampled_from([1.0, 1.5])),
        position_penalty=draw(st.sampled_from([1.0, 2.0])),
        position_penalty_kind=draw(st.sampled_from(["ramp", "window"])),
        guidance=draw(st.sampled_from([0.0, 1.5])),
        cache_refresh=draw(st.sampled_from([None, None, 1, 3])),
    )


@st.composite
def requests(draw, speech: bool = True) -> Request:
    """Any request: some of the answer given, some places restricted, perhaps with speech."""
    prompt, answer = draw(st.integers(1, 8)), draw(st.integers(1, 12))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    ids = torch.randint(MASK, (prompt + answer,), generator=generator)
    hidden = torch.rand(prompt + answer, generator=generator) < draw(st.sampled_from([1.0, 0.6]))
    hidden[:prompt] = False
    allowed = torch.tensor([[[0, VOCAB], [0, 0]]]).repeat(len(ids), 1, 1)
    narrow = torch.tensor([[10, 20], [30, 32]])
    allowed[torch.rand(len(ids), generator=generator) < 0.5] = narrow
    inserts = None
    if speech and draw(st.booleans()):
        inserts = Inserts(torch.arange(1), torch.randn(1, 16, generator=generator))
    return Request(
        ids=torch.where(hidden, MASK, ids),
        answer_start=prompt,
        allowed=allowed,
        inserts=inserts,
        unconditional=torch.randint(MASK, (draw(st.integers(0, 9)),), generator=generator),
        seed=draw(st.integers(0, 3)),
    )


def alone(request: Request, recipe: SamplerRecipe) -> Answer:
    (answer,) = generate(MODEL, [request], recipe)
    return answer


@settings(max_examples=60)
@given(requests(), recipes())
def test_given_tokens_stay_and_hidden_ones_become_what_their_place_allows(request, recipe):
    """Prompt and known parts of a picture are kept; no mask is left; nothing else comes out."""
    answer = alone(request, recipe)
    hidden = request.ids == MASK
    assert torch.equal(answer.ids[~hidden], request.ids[~hidden])
    low, high = request.allowed[hidden].unbind(-1)
    found = answer.ids[hidden][:, None]
    assert ((found >= low) & (found < high)).any(1).all()
    assert (answer.ids != MASK).all()
    assert torch.equal(answer.answer, answer.ids[request.answer_start :])


@settings(max_examples=40)
@given(st.lists(st.tuples(requests(), recipes()), min_size=2, max_size=5))
def test_a_batch_gives_each_request_what_it_gets_alone(batch):
    """Whatever the lengths, tasks and recipes beside it."""
    asked = [request for request, _ in batch]
    # When a cache is renewed depends on the whole batch; without one nothing does.
    recipes = [recipe.model_copy(update={"cache_refresh": None}) for _, recipe in batch]
    answers = generate(MODEL, asked, recipes)
    for request, recipe, answer in zip(asked, recipes, answers, strict=True):
        single = alone(request, recipe)
        assert torch.equal(answer.ids, single.ids)
        assert answer.steps == single.steps


@settings(max_examples=25)
@given(st.lists(requests(), min_size=2, max_size=4), recipes(), st.integers(1, 5))
def test_a_request_that_comes_later_gets_what_it_gets_alone(batch, recipe, steps):
    """Answers may be at different steps: a server adds requests while others are under way."""
    recipe = recipe.model_copy(update={"cache_refresh": None})
    state = prepare(MODEL.config, batch[:1], recipe)
    for request in batch[1:]:
        for _ in range(steps):
            denoise_step(MODEL, state)
        admit(state, request, recipe)
    while not state.done:
        denoise_step(MODEL, state)
    for request, answer in zip(batch, finish(state), strict=True):
        assert torch.equal(answer.ids, alone(request, recipe).ids)


@settings(max_examples=40)
@given(requests(), recipes(), st.integers(0, 19))
def test_stopping_at_the_end_keeps_what_comes_before_it(request, recipe, end):
    """Left to right, one token a block, what follows the end cannot have mattered."""
    recipe = recipe.model_copy(update={"block_size": 1, "cache_refresh": None})
    request = replace(request, ends=(end,))
    whole = alone(request, recipe)
    stopped = alone(request, recipe.model_copy(update={"stop_at_end": True}))
    reached = torch.nonzero(whole.answer == end)[:, 0]
    kept = int(reached[0]) + 1 if len(reached) else len(whole.answer)
    assert torch.equal(stopped.answer[:kept], whole.answer[:kept])
    filled = request.ids[request.answer_start :][kept:] == MASK
    assert (stopped.answer[kept:][filled] == MODEL.config.pad_token_id).all()
    assert stopped.steps <= whole.steps


@settings(max_examples=30)
@given(requests(), recipes())
def test_the_same_seed_gives_the_same_answer(request, recipe):
    assert torch.equal(alone(request, recipe).ids, alone(request, recipe).ids)


def test_another_seed_gives_another_answer():
    request = Request.blank([1, 2, 3], 12, MASK)
    recipe = SamplerRecipe(temperature=1.0)
    answers = {tuple(alone(replace(request, seed=s), recipe).ids.tolist()) for s in range(8)}
    assert len(answers) > 4


@settings(max_examples=30)
@given(requests(), recipes())
def test_one_block_as_long_as_the_answer_is_no_block(request, recipe):
    length = len(request.ids) - request.answer_start
    whole, none = (
        alone(request, recipe.model_copy(update={"block_size": size})) for size in (length, None)
    )
    assert torch.equal(whole.ids, none.ids)


@settings(max_examples=30)
@given(requests(), recipes())
def test_blocks_are_finished_from_left_to_right(request, recipe):
    recipe = recipe.model_copy(update={"block_size": 3})
    state = prepare(MODEL.config, [request], recipe, keep_history=True)
    while not state.done:
        denoise_step(MODEL, state)
    for ids in finish(state)[0].history if state.passes.forwards else ():
        blocks = (ids[request.answer_start :] == MASK).split(3)
        touched = [
            bool((now != before).any())
            for now, before in zip(
                blocks, (request.ids[request.answer_start :] == MASK).split(3), strict=True
            )
        ]
        for earlier, later in zip(blocks, touched[1:], strict=False):
            assert not (later and earlier.any())


@settings(max_examples=30)
@given(requests(), recipes())
def test_no_guidance_is_no_unconditional_prompt(request, recipe):
    recipe = recipe.model_copy(update={"guidance": 0.0})
    without = replace(request, unconditional=None)
    assert torch.equal(alone(request, recipe).ids, alone(without, recipe).ids)


@settings(max_examples=30)
@given(requests(speech=False), recipes())
def test_guidance_by_the_prompt_itself_changes_nothing(request, recipe):
    """Aligned scores of the same tokens: conditional minus unconditional is zero everywhere."""
    request = replace(request, unconditional=request.ids[: request.answer_start])
    unguided = recipe.model_copy(update={"guidance": 0.0})
    guided = recipe.model_copy(update={"guidance": 1.5})
    assert torch.equal(alone(request, guided).ids, alone(request, unguided).ids)


def test_aligned_guidance_ignores_how_long_the_unconditional_prompt_is():
    """Tokens before the ones that the model looks at would shift every pair in row alignment."""
    request = Request.blank(torch.arange(9), 8, MASK)
    long, short = torch.arange(30, 42), torch.arange(30, 33)
    for unconditional in (long, short):
        answer = alone(replace(request, unconditional=unconditional), SamplerRecipe(guidance=2.0))
        assert (answer.ids != MASK).all()
    published = preset("published-code", guidance=2.0)
    with pytest.raises(RequestError, match="12 tokens is longer than the prompt of 9"):
        alone(replace(request, unconditional=long), published)


@settings(max_examples=30)
@given(requests(), recipes())
def test_a_threshold_never_costs_a_pass(request, recipe):
    """It keeps more in a step, never less; at its lowest everything is kept at once."""
    recipe = recipe.model_copy(update={"order": "entropy", "threshold": None, "block_size": None})
    scheduled = prepare(MODEL.config, [request], recipe)
    bold = prepare(MODEL.config, [request], recipe.model_copy(update={"threshold": 1e-9}))
    for state in (scheduled, bold):
        while not state.done:
            denoise_step(MODEL, state)
    hidden = int((request.ids == MASK).sum())
    assert scheduled.passes.forwards <= min(recipe.steps, max(hidden, 1))
    assert bold.passes.forwards == (hidden > 0)


@settings(max_examples=30)
@given(st.lists(requests(), min_size=1, max_size=3), recipes())
def test_a_cache_that_is_renewed_every_pass_is_no_cache(batch, recipe):
    cached, plain = (
        generate(MODEL, batch, recipe.model_copy(update={"cache_refresh": refresh}))
        for refresh in (1, None)
    )
    for one, other in zip(cached, plain, strict=True):
        assert torch.equal(one.ids, other.ids)


@given(st.lists(requests(), min_size=1, max_size=3))
@torch.no_grad()
def test_a_partial_pass_over_unchanged_tokens_gives_the_states_of_the_whole_one(batch):
    """What a cache leaves out changes nothing but the age of the keys and values."""
    samples = [
        Sample(
            ids=request.ids,
            inserts=request.inserts,
            block=(request.answer_start, len(request.ids)),
            wanted=torch.arange(request.answer_start, len(request.ids)),
        )
        for request in batch
    ]
    passes = Passes(refresh=9)
    whole = passes.run(MODEL, samples, "these")
    computed = passes.tokens
    part = passes.run(MODEL, samples, "these")
    assert computed == sum(len(r.ids) for r in batch)
    answers = sum(len(r.ids) - r.answer_start for r in batch)
    assert passes.tokens - computed == answers + len(batch)
    torch.testing.assert_close(part, whole, rtol=1e-5, atol=1e-5)
    again = passes.run(MODEL, samples, "others")
    assert passes.tokens == 2 * computed + answers + len(batch)
    assert torch.equal(again, whole)


def test_restricting_to_everything_is_no_restriction():
    request = Request.blank(torch.arange(5), 10, MASK)
    everything = replace(request, allowed=torch.tensor([[[0, VOCAB]]]).repeat(15, 1, 1))
    recipe = SamplerRecipe()
    assert torch.equal(alone(request, recipe).ids, alone(everything, recipe).ids)
    restricted = replace(request, allowed=torch.tensor([[[10, 12]]]).repeat(15, 1, 1))
    off = recipe.model_copy(update={"restrict_vocabulary": False})
    assert torch.equal(alone(restricted, off).ids, alone(request, recipe).ids)


def test_a_token_in_advance_is_kept_where_it_was_put():
    request = Request.blank(torch.arange(5), 16, MASK)
    request.ids[9] = 33
    assert alone(request, SamplerRecipe()).ids[9] == 33


def test_speech_in_the_prompt_is_heard():
    request = Request.blank(torch.zeros(10).long(), 8, MASK)
    answers = set()
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        features = torch.randn(3, 560, generator=generator)
        with torch.no_grad():
            (vectors,) = MODEL.embed_speech([features])
        heard = replace(request, inserts=Inserts(torch.arange(1, 8), vectors))
        answers.add(tuple(alone(heard, SamplerRecipe()).ids.tolist()))
    assert len(answers) > 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": torch.zeros(600).long()}, "more than the 512"),
        ({"ids": torch.full((8,), 50)}, "ids that are not below 50"),
        ({"unconditional": torch.tensor([-1])}, "unconditional prompt has ids"),
        ({"ids": torch.full((8,), MASK)}, "prompt has hidden tokens"),
        ({"answer_start": 8}, "begins at 8 of 8"),
        ({"allowed": torch.tensor([[[5, 5]]]).repeat(8, 1, 1)}, "no allowed id"),
        ({"allowed": torch.tensor([[[0, 51]]]).repeat(8, 1, 1)}, "allowed ids must be"),
    ],
)
def test_a_request_that_cannot_be_answered_is_refused(change, message):
    request = replace(Request.blank([1, 2, 3], 5, MASK), **change)
    with pytest.raises(RequestError, match=message):
        prepare(MODEL.config, [request], SamplerRecipe())


def test_what_is_missing_is_said():
    with pytest.raises(RequestError, match="nothing to generate"):
        Request.blank([1], 0, MASK)
    with pytest.raises(RequestError, match="needs an unconditional prompt"):
        prepare(MODEL.config, [Request.blank([1], 4, MASK)], SamplerRecipe(guidance=1.0))
    with pytest.raises(RecipeError, match="none of default, paper, published-code"):
        preset("papr")


def test_presets_are_recipes_that_survive_a_file(tmp_path):
    for name, recipe in PRESETS.items():
        (tmp_path / f"{name}.yaml").write_text(recipe.to_yaml())
        assert load_recipe(tmp_path / f"{name}.yaml", SamplerRecipe) == recipe
    (tmp_path / "wrong.yaml").write_text("{order: random, threshold: 0.5}")
    with pytest.raises(RecipeError, match="random order has no confidence"):
        load_recipe(tmp_path / "wrong.yaml", SamplerRecipe)

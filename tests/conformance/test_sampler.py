"""The preset `published-code` gives the ids of the published sampler, after every step."""

import json

import numpy as np
import pytest
import torch

from dreams import conformance_dream
from omni_diffusion.generation import orders, penalties
from omni_diffusion.generation.candidates import choose, find_candidates
from omni_diffusion.generation.request import Request, RequestError
from omni_diffusion.generation.sampler import denoise_step, finish, prepare
from omni_diffusion.generation.sampler_recipe import preset
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = vector_set("sampler")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
CASES = json.loads((FOLDER / "cases.json").read_bytes())
COMPARED = [c for c in CASES if "raises" not in c and not c["selections_with_minus_inf_confidence"]]
"""In the others the published code fails, or picks among tokens that it has ruled out."""
ORDERS = {
    "origin": "random",
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
    "entropy": "entropy",
    "entropy-penalty": "entropy",
}
BEGIN_OF_AUDIO_SHARE, BEGIN_OF_AUDIO = 0.2, 1684


def name_of(case):
    return case["name"]


def recipe_of(case):
    """The published arguments in our terms."""
    arguments = case["kwargs"]
    algorithm = arguments["alg"]
    assert arguments.get("alg_temp", 0) == 0
    return preset(
        "published-code",
        steps=arguments["steps"],
        order=ORDERS[algorithm],
        block_size=arguments.get("block_size"),
        temperature=arguments["temperature"],
        top_p=arguments["top_p"],
        top_k=case["effective_top_k"],
        repetition_penalty=float(
            arguments.get("repeat_penalty", 1) if algorithm == "entropy-penalty" else 1
        ),
        position_penalty=float(arguments.get("max_position_penalty", 1)),
        guidance=float(arguments.get("cfg", 0)),
    )


def request_of(case, prompt, mask_id):
    request = Request.blank(prompt, case["kwargs"]["max_new_tokens"], mask_id)
    if case["kwargs"].get("add_boa_token"):
        answer = request.ids[request.answer_start :]
        answer[int(BEGIN_OF_AUDIO_SHARE * len(answer))] = BEGIN_OF_AUDIO
    if "unconditional_prompt_ids" in case:
        unconditional = torch.tensor(case["unconditional_prompt_ids"])
        object.__setattr__(request, "unconditional", unconditional)
    return request


class Recorded:
    """The random numbers that the published run drew."""

    def __init__(self, case):
        self._draws = iter(
            EXPECTED[key] for i in range(10_000) if (key := f"{case['name']}.rand_{i}") in EXPECTED
        )

    def uniform(self, count):
        draws = torch.from_numpy(next(self._draws))
        assert len(draws) == count
        return draws


@pytest.fixture(scope="module")
def model():
    return conformance_dream()


def run(model, cases):
    """All cases in one batch; they must share a recipe."""
    requests = [
        request_of(case, EXPECTED[f"{case['name']}.prompt"][0], model.config.mask_token_id)
        for case in cases
    ]
    state = prepare(model.config, requests, recipe_of(cases[0]), keep_history=True)
    for case, progress in zip(cases, state.answers, strict=True):
        if case["kwargs"]["alg"] == "origin":
            progress.noise = Recorded(case)
    while not state.done:
        denoise_step(model, state)
    return finish(state)


def assert_published(case, answer):
    """Prompt positions read 0 in the recorded histories: they are ours to fill."""
    start = len(EXPECTED[f"{case['name']}.prompt"][0])
    history = EXPECTED[f"{case['name']}.history"][:, start:]
    np.testing.assert_array_equal(answer.history[:, start:].numpy(), history)
    sequence = EXPECTED[f"{case['name']}.sequence"][0, start:]
    np.testing.assert_array_equal(answer.answer.numpy(), sequence)


def test_the_set_holds_cases_of_every_order():
    assert {ORDERS[c["kwargs"]["alg"]] for c in COMPARED} == set(ORDERS.values())


@pytest.mark.parametrize("case", COMPARED, ids=name_of)
def test_every_step_keeps_the_published_ids(model, case):
    (answer,) = run(model, [case])
    assert_published(case, answer)


def test_published_ids_come_out_of_a_batch_too(model):
    """All cases of one recipe side by side, whatever their prompts and lengths."""
    groups: dict[str, list] = {}
    for case in COMPARED:
        groups.setdefault(recipe_of(case).digest(), []).append(case)
    batches = [group for group in groups.values() if len(group) > 1]
    assert batches
    for batch in batches:
        for case, answer in zip(batch, run(model, batch), strict=True):
            assert_published(case, answer)


@pytest.mark.parametrize("case", [c for c in CASES if "raises" in c], ids=name_of)
def test_where_the_published_code_crashes_a_sentence_says_why(model, case):
    """A longer or absent unconditional prompt."""
    request = Request.blank(torch.arange(11), 32, model.config.mask_token_id)
    if case["kwargs"].get("task"):
        object.__setattr__(request, "unconditional", torch.arange(54))
    with pytest.raises(RequestError, match="unconditional prompt"):
        denoise_step(model, prepare(model.config, [request], recipe_of(case)))


UNIT = {
    "unit_plain": {},
    "unit_topp": {"top_p": 0.9},
    "unit_topk": {"top_k": 4},
    "unit_topp_topk": {"top_p": 0.8, "top_k": 6},
    "unit_margin": {"order": "margin"},
    "unit_negent": {"order": "entropy", "top_p": 0.9},
    "unit_repeat": {"order": "entropy", "top_p": 0.95, "repeat": 1.5},
    "unit_maxpos": {"order": "entropy", "ramp": 2.0},
}
SEEN = [3, 9, 49, 17]


@pytest.mark.parametrize("name", [n for n in UNIT if f"{n}.confidence" in EXPECTED])
def test_scores_become_the_published_choice_and_confidence(name):
    options = UNIT[name]
    logits = EXPECTED.get(f"{name}.logits", EXPECTED["unit.logits"])
    found = find_candidates(
        torch.from_numpy(logits.astype(np.float32)),
        torch.arange(logits.shape[1]),
        0.0,
        options.get("top_k"),
        options.get("top_p", 1.0),
    )
    scores = found.scores
    if "repeat" in options:
        seen = torch.zeros(1, scores.shape[1], dtype=torch.bool)
        seen[0, SEEN] = True
        owner = torch.zeros(len(scores), dtype=torch.int64)
        factors = penalties.repetition_factors(seen, owner, found.ids, options["repeat"])
        scores = penalties.penalise(scores, factors)
    if "ramp" in options:
        rank, count = torch.arange(len(scores)), torch.tensor(len(scores))
        scores = penalties.penalise(scores, penalties.ramp_factors(rank, count, options["ramp"]))
    probabilities = scores.softmax(1)
    chosen = choose(probabilities, None)
    confidence = orders.confidence(options.get("order", "confidence"), probabilities, chosen)
    ids = found.ids.gather(1, chosen[:, None])[:, 0]
    np.testing.assert_array_equal(ids.numpy(), EXPECTED[f"{name}.x0"])
    expected = EXPECTED[f"{name}.confidence"]
    np.testing.assert_allclose(confidence.numpy(), expected, rtol=0, atol=1e-5)

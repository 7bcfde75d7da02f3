"""The backbone and its loss against what the published model computes.

Where the published code lets samples touch each other (pads seen by the last sample of a row; a
label on a sample's first token), ours keeps them apart, and the tests say what is compared.
"""

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from dreams import conformance_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import Dream
from omni_diffusion.training.loss import IGNORED, find_targets, head_loss
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = vector_set("dream")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
GRADIENTS = json.loads((FOLDER / "loss_grads.json").read_bytes())
TOLERANCE = {np.dtype(np.float32): 2e-4, np.dtype(np.float16): 1e-2}
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-3


def cases(field: str, prefix: str = "") -> list[str]:
    found = [key.removesuffix(field) for key in EXPECTED if key.endswith(field)]
    return sorted(case for case in found if case.startswith(prefix))


SINGLES = [c for c in cases(".input_ids") if f"{c}.position_ids" not in EXPECTED]
LOSSES = cases(".loss")


@pytest.fixture(scope="module")
def model() -> Dream:
    return conformance_dream()


def row(name: str) -> Tensor:
    return torch.from_numpy(EXPECTED[name][0]).long()


def assert_close(actual: Tensor, expected: np.ndarray) -> None:
    np.testing.assert_allclose(
        actual.detach().numpy(), expected[0], rtol=0, atol=TOLERANCE[expected.dtype]
    )


def test_the_set_holds_cases_to_compare():
    assert len(SINGLES) >= 2
    assert len(LOSSES) >= 1


@pytest.mark.parametrize("case", SINGLES)
@torch.no_grad()
def test_logits_are_the_published_ones(model, case):
    ids = row(f"{case}.input_ids")
    logits = model.logits(model(ids, Segments([len(ids)])))
    if f"{case}.logit_positions" in EXPECTED:
        positions = torch.from_numpy(EXPECTED[f"{case}.logit_positions"]).long()
        assert_close(logits[positions], EXPECTED[f"{case}.logits_at_positions"])
    else:
        assert_close(logits, EXPECTED[f"{case}.logits"])


@pytest.mark.parametrize("case", cases(".hidden_0"))
@torch.no_grad()
def test_every_layer_computes_what_the_published_one_does(model, case):
    outputs = []
    parts = [model.model.embed_tokens, *model.model.layers[:-1]]
    hooks = [part.register_forward_hook(lambda _, __, out: outputs.append(out)) for part in parts]
    ids = row(f"{case}.input_ids")
    outputs.append(model(ids, Segments([len(ids)])))
    for hook in hooks:
        hook.remove()
    for index, output in enumerate(outputs):
        assert_close(output, EXPECTED[f"{case}.hidden_{index}"])


@torch.no_grad()
def test_a_packed_row_gives_the_published_logits(model):
    segments = Segments.from_positions(row("packed.position_ids"))
    logits = model.logits(model(row("packed.input_ids"), segments))
    assert_close(logits, EXPECTED["packed.logits"])


@torch.no_grad()
def test_padding_is_invisible_to_the_samples_of_a_row(model):
    """We hide padding as keys, so the padded row must give the logits of the unpadded one."""
    kept = row("packed_padded_upstream.attention_mask").bool()
    samples = Segments.from_positions(row("packed_padded_upstream.position_ids")[kept])
    segments = Segments([*samples.lengths, int((~kept).sum())])
    logits = model.logits(model(row("packed_padded_upstream.input_ids"), segments))
    assert_close(logits[kept], EXPECTED["packed.logits"])


@pytest.fixture(params=LOSSES)
def scored(request, model):
    """A recorded loss: per-token losses by our own rules, and the published mean.

    The published code scores a label on the first token of a later sample too, with the last row
    of the sample before; those leaks are added here, and only here, to compare the mean.
    """
    case = request.param
    segments = Segments.from_positions(row(f"{case}.position_ids"))
    labels = row(f"{case}.labels")
    hidden = model(row(f"{case}.input_ids"), segments)
    ours = find_targets(labels, segments)
    leaked = segments.starts[1:]
    leaked = leaked[labels[leaked] != IGNORED]
    rows = torch.cat((ours.rows, leaked - 1))
    ids = torch.cat((ours.ids, labels[leaked]))
    loss = head_loss(hidden[rows], model.lm_head.weight, ids, len(ids), chunk_rows=7)
    return case, ours, len(leaked), loss


def test_the_loss_is_the_published_one(scored):
    case, ours, leaks, (loss, _) = scored
    assert len(ours.ids) + leaks == EXPECTED[f"{case}.num_scored"]
    assert abs(loss.item() - EXPECTED[f"{case}.loss"]) <= LOSS_TOLERANCE


def test_every_token_has_the_published_loss(scored):
    case, ours, _, (_, per_target) = scored
    expected = EXPECTED[f"{case}.per_token_loss_at_label_position"]
    losses = per_target[: len(ours.ids)]
    np.testing.assert_allclose(losses.numpy(), expected[0][ours.positions.numpy()], atol=2e-4)


def test_every_parameter_has_the_published_gradient(scored, model):
    case, _, _, (loss, _) = scored
    model.zero_grad()
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    assert gradients.keys() == GRADIENTS[case].keys()
    for name, expected in GRADIENTS[case].items():
        norm = expected["grad_l2"]
        assert gradients[name].norm().item() == pytest.approx(norm, rel=GRADIENT_TOLERANCE), name
        first = gradients[name].flatten()[: len(expected["first4"])].tolist()
        assert first == pytest.approx(expected["first4"], rel=1e-3, abs=1e-4 * norm), name

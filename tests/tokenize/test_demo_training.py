"""The demo image tokenizer's training: faster norms, a grown network, and going on after a kill."""

import random
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from demo_tokenizers import image_training
from demo_tokenizers.image_corpus import Drawing
from demo_tokenizers.image_growth import grow, new_core, new_whole
from demo_tokenizers.image_losses import CodeLoss, cell_weights
from demo_tokenizers.image_norm import TrainingNorm
from demo_tokenizers.image_training import Plan, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

PLAN = Plan(warm_steps=2, core_steps=3, whole_steps=3, core_batch=1, whole_batch=1)


@pytest.fixture
def drawings() -> list[Drawing]:
    levels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 4), dtype=np.uint8)
    return [Drawing(str(i), Image.fromarray(rgba)) for i, rgba in enumerate(levels)]


def codes_of(model, pixels):
    with torch.no_grad():
        return model.quantize.codes(model.encoder(pixels))


@pytest.mark.parametrize("channels", [32, 64, 160])
def test_training_norm_is_group_norm_in_values_and_gradients(channels):
    torch.manual_seed(0)
    plain, fast = (kind(32, channels, eps=1e-6) for kind in (nn.GroupNorm, TrainingNorm))
    for norm in (plain, fast):
        nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
        nn.init.normal_(norm.bias, generator=torch.Generator().manual_seed(2))
    x = torch.randn(2, channels, 6, 4).to(memory_format=torch.channels_last)
    back = torch.randn_like(x)
    found = []
    for norm in (plain, fast):
        leaf = x.clone().requires_grad_()
        out = norm(leaf)
        out.backward(back)
        found.append((out.detach(), leaf.grad, norm.weight.grad, norm.bias.grad))
    for expected, actual in zip(*found, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_the_whole_network_begins_with_the_codes_of_the_core():
    """It shrinks a picture by averaging, and then does what the core does."""
    torch.manual_seed(0)
    core, whole = new_core(), new_whole()
    grow(core, whole)
    pixels = torch.rand(1, 3, 128, 128) * 2 - 1
    small = nn.functional.avg_pool2d(pixels, 4)
    same = codes_of(core, small) == codes_of(whole, pixels)
    assert same.double().mean() > 0.9  # rounding decides where an output is near zero


def test_flat_cells_hardly_count():
    pixels = torch.ones(1, 3, 32, 32)
    pixels[0, :, :16, :16] = torch.rand(3, 16, 16)
    weights = cell_weights(pixels, 16)
    assert weights.sum().item() == pytest.approx(1)
    assert weights.argmax() == 0
    assert weights[1:].sum() < weights[0]


def test_the_reward_for_spread_is_the_entropy_of_whole_codes():
    """Against the plain sum over all codes."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 5, 4, 4, generator=generator)
    weights = torch.rand(16, generator=generator).softmax(0)
    chance = (4 * latents.movedim(1, -1).flatten(0, -2)).sigmoid()
    shares = torch.stack(
        [
            (weights * torch.where(torch.tensor(code), chance, 1 - chance).prod(1)).sum()
            for code in product((False, True), repeat=5)
        ]
    )
    expected = -torch.special.entr(shares).sum() / 5
    found = CodeLoss(commitment=0, spread=1, correlation=0)(latents, weights)
    torch.testing.assert_close(found, expected)


def test_bits_that_go_together_cost_more_than_bits_that_do_not():
    """Even in a batch of fewer cells than codes, where entropy sees no difference."""
    loss = CodeLoss(0.5, 1.0, 0.5)
    weights = torch.full((16,), 1 / 16)
    numbers = torch.arange(16)
    free = torch.stack([torch.where(numbers >> bit & 1 > 0, 1.0, -1.0) for bit in range(4)])
    tied = torch.cat((free, free[:2]))  # the last two bits repeat the first two
    mixed = torch.cat((free, free[:1] * free[1:2], free[2:3] * free[3:]))
    costs = [loss(bits.view(1, 6, 4, 4), weights).item() for bits in (tied, mixed)]
    assert costs[0] > costs[1]


@pytest.mark.parametrize("n_before", [3, 6])
def test_a_training_broken_off_ends_as_the_undisturbed_one(
    drawings, n_before: int, tmp_path: Path, monkeypatch
):
    """Broken off in the core's part, and in that of the whole network."""
    monkeypatch.setattr(image_training, "KEEP_EVERY", 2)
    undisturbed = Trainer(drawings, drawings, PLAN, 3).train()

    state = tmp_path / "state.pt"
    broken = Trainer(drawings, drawings, PLAN, 3, state)
    batch, drawn = broken.batch, iter(range(n_before))

    def batch_until_killed(n: int, side: int, rng: random.Random) -> torch.Tensor:
        if next(drawn, None) is None:
            raise KeyboardInterrupt
        return batch(n, side, rng)

    monkeypatch.setattr(broken, "batch", batch_until_killed)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    resumed = Trainer(drawings, drawings, PLAN, 3, state).train()

    for key, tensor in undisturbed.state_dict().items():
        assert torch.equal(resumed.state_dict()[key], tensor), key


def test_a_state_of_another_training_is_refused(drawings, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(image_training, "KEEP_EVERY", 1)
    plan = Plan(warm_steps=0, core_steps=1, whole_steps=1, core_batch=1, whole_batch=1)
    Trainer(drawings, drawings, plan, 3, tmp_path / "state.pt").train()
    with pytest.raises(SystemExit, match="other settings"):
        Trainer(drawings, drawings, plan, 4, tmp_path / "state.pt").train()

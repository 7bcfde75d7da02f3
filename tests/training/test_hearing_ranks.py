"""Continuous speech in a sharded model, where not every rank has any."""

import os

import torch
from safetensors.torch import load_file

from hearing_ranks import RANKS, as_one_of_two, hearing_model, sample
from omni_diffusion.training.forward import batch_loss
from omni_diffusion.training.optim import trained


def test_the_projector_learns_on_two_ranks_what_it_learns_on_one(tmp_path):
    """A rank that hears nothing still takes part in the projector's collectives."""
    torch.multiprocessing.spawn(as_one_of_two, (os.fspath(tmp_path),), nprocs=RANKS)
    model = hearing_model()
    for _ in range(2):
        for heard in (True, False):
            batch_loss(model, sample(heard=heard), 4.0).loss.backward()
    found = load_file(tmp_path / "gradients.safetensors")
    assert any("audio_projection" in name for name in found)
    for name, parameter in trained(model).items():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-6, atol=1e-8)
        assert name.startswith("model.embed") or parameter.grad.abs().sum() > 0

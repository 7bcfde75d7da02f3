"""Adapters in bfloat16, activations computed again: what rests is not saved, the rest resumes."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.training.learner import Learner
from omni_diffusion.training.opening import open_data
from omni_diffusion.training.parallel import World
from training_runs import last_state, metrics, tiny_run, train_to

LORA = {"rank": 2, "alpha": 4, "dropout": 0.1, "fully_trained": ("lm_head",)}


@pytest.fixture(scope="module")
def recipe(short):
    model = {"dtype": "bfloat16", "activation_checkpointing": True, "lora": LORA}
    often = {"evaluate_every": None, "checkpoints": {"every": 6}}
    return tiny_run(short, model=model, optim={"steps": 6}, run=often)


@pytest.fixture(scope="module")
def undisturbed(recipe, tmp_path_factory) -> Path:
    run: Path = tmp_path_factory.mktemp("adapters")
    train_to(None, recipe, run)
    return run


def test_only_what_learns_is_kept_in_float32_and_saved(recipe, undisturbed):
    learner = Learner(recipe, open_data(recipe.data), World())
    for parameter in learner.model.parameters():
        learns = parameter.requires_grad
        assert parameter.dtype == (torch.float32 if learns else torch.bfloat16)
    (file,) = (undisturbed / "checkpoints/step-00000006").glob("*.safetensors")
    saved = load_file(file)
    names = {key.removeprefix("model/") for key in saved if key.startswith("model/")}
    assert names == learner.parameters.keys()
    assert all(".lora_" in name or name == "lm_head.weight" for name in names)


def test_it_resumes_bit_for_bit_dropout_included(recipe, undisturbed, tmp_path):
    train_to(3, recipe, tmp_path)
    train_to(None, recipe, tmp_path)
    assert last_state(tmp_path) == last_state(undisturbed)
    assert metrics(tmp_path) == metrics(undisturbed)


def test_the_model_for_others_is_merged(recipe, undisturbed):
    model = load_dream(undisturbed / "model")
    assert not any("lora" in name for name in model.state_dict())
    stored = load_file(next((undisturbed / "model").glob("*.safetensors")))
    assert {tensor.dtype for tensor in stored.values()} == {torch.bfloat16}
    resting = Learner(recipe, open_data(recipe.data), World()).model
    learned = model.model.layers[0].self_attn.q_proj.weight
    before = resting.model.layers[0].self_attn.q_proj.base_layer.weight
    assert not torch.equal(learned, before.float())


@pytest.mark.slow
def test_compiled_layers_learn_the_same(short, tmp_path):
    """Minutes of a C++ compiler on a CPU."""
    often = {"evaluate_every": None}
    for compiled in (False, True):
        model = {"dtype": "float32", "compile": compiled}
        recipe = tiny_run(short, model=model, optim={"steps": 2}, run=often)
        train_to(None, recipe, tmp_path / f"{compiled}")
    for ours, plain in zip(metrics(tmp_path / "True"), metrics(tmp_path / "False"), strict=True):
        assert ours["loss"] == pytest.approx(plain["loss"], rel=1e-5)

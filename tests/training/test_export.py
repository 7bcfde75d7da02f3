"""What training leaves for others loads as a published checkpoint, adapters merged."""

import json

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.checkpoint import load_dream
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.training.export import ABOUT, export_model, merged
from omni_diffusion.training.lora import add_lora
from omni_diffusion.training.model_recipe import LoraRecipe
from omni_diffusion.training.parallel import World


def export(folder, model, averages=None, about=None):
    export_model(
        folder,
        model,
        averages or {},
        tokenizer="demo",
        about=about or {},
        dtype=torch.float32,
        world=World(),
    )


def test_a_model_comes_back_with_its_tokenizer(tmp_path):
    model = tiny_dream()
    export(tmp_path / "model", model, about={"steps": 3})
    again = load_dream(tmp_path / "model")
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    tokenizer = TextTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.fingerprint == TextTokenizer.from_pretrained("demo").fingerprint
    assert json.loads((tmp_path / "model" / ABOUT).read_text()) == {"steps": 3}


def test_averages_take_the_place_of_parameters(tmp_path):
    model = tiny_dream()
    averages = {"lm_head.weight": torch.full_like(model.lm_head.weight, 0.5)}
    export(tmp_path / "model", model, averages)
    again = load_dream(tmp_path / "model")
    assert (again.lm_head.weight == 0.5).all()
    assert torch.equal(again.model.norm.weight, model.model.norm.weight)


def test_an_older_export_is_replaced_and_leftovers_of_a_kill_do_no_harm(tmp_path):
    export(tmp_path / "model", tiny_dream(seed=1))
    for left in ("model.new", "model.new.partial"):
        (tmp_path / left).mkdir()
        (tmp_path / left / "torn").write_text("x")
    export(tmp_path / "model", tiny_dream(seed=2))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]
    assert not (tmp_path / "model/torn").exists()
    found = load_dream(tmp_path / "model").lm_head.weight
    assert torch.equal(found, tiny_dream(seed=2).lm_head.weight)


def test_adapters_are_merged_as_peft_merges_them_and_go_on_learning(tmp_path):
    model = tiny_dream()
    add_lora(model, LoraRecipe(rank=2, alpha=6, fully_trained=("lm_head",)), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_B." in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    ids, segments = torch.arange(9), Segments([9])
    trained = model(ids, segments).detach()
    export(tmp_path / "model", model)
    again = load_dream(tmp_path / "model")
    torch.testing.assert_close(again(ids, segments).detach(), trained, rtol=1e-5, atol=1e-5)
    assert torch.equal(model(ids, segments).detach(), trained)
    found = merged(model, {})
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            model.set_submodule(name, layer.get_base_layer())
    assert found.keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6)


def test_averages_of_adapters_are_what_is_merged():
    model = tiny_dream()
    add_lora(model, LoraRecipe(rank=2, fully_trained=()), seed=0)
    name = "model.layers.0.self_attn.q_proj.lora_B.default.weight"
    plain = merged(model, {})["model.layers.0.self_attn.q_proj.weight"]
    moved = merged(model, {name: torch.ones_like(model.get_parameter(name))})
    first = model.get_parameter(name.replace("lora_B", "lora_A"))
    change = moved["model.layers.0.self_attn.q_proj.weight"] - plain
    expected = 128 / 2 * first.sum(0, keepdim=True).expand_as(change).detach()
    torch.testing.assert_close(change, expected, rtol=1e-4, atol=1e-4)
    assert (
        pytest.approx(0)
        == (
            moved["model.layers.0.self_attn.k_proj.weight"]
            - merged(model, {})["model.layers.0.self_attn.k_proj.weight"]
        )
        .abs()
        .max()
        .item()
    )

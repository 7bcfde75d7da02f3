"""The estimate's formulae against what PyTorch counts, on models small enough to run."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from omni_diffusion.backbone.attention import Segments
from omni_diffusion.cli import app
from omni_diffusion.errors import RecipeError
from omni_diffusion.tokenize.vocabulary import PUBLISHED_TEXT_SIZE, Vocabulary
from omni_diffusion.training.estimate import Assumptions, EstimateRecipe, estimate
from omni_diffusion.training.model import build_model

VOCABULARY = Vocabulary(text_size=256)
TOKENS = 192
GIVEN = Assumptions(
    gpus=1,
    peak_flops=1e12,
    efficiency=0.5,
    rows_per_pass=1,
    sample_tokens=TOKENS,
    masked_share=0.0,
)


def recipe(**model: object) -> EstimateRecipe:
    sizes = {
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    source = {"corpus": "nowhere"}
    return EstimateRecipe.model_validate(
        {
            "model": {"sizes": sizes, "dtype": "float32"} | model,
            "data": {
                "sources": {"a": source},
                "tokenizer": "demo",
                "row_length": TOKENS,
                "rows_per_step": 1,
            },
            "optim": {"steps": 100},
            "run": {"anything": "else"},
        }
    )


def counted(masked: int) -> int:
    """Operations of one step as PyTorch counts them, attention not included."""
    model = build_model(recipe().model, VOCABULARY)
    ids = torch.arange(TOKENS)
    with FlopCounterMode(display=False) as counter:
        hidden = model(ids, Segments([TOKENS]))
        model.logits(hidden[:masked]).logsumexp(1).sum().backward()
    return counter.get_total_flops()


def test_operations_are_those_that_pytorch_counts():
    """PyTorch does not count attention on the CPU: samples of no length have none."""
    for masked in (48, 192):
        given = Assumptions(**{**vars(GIVEN), "sample_tokens": 0, "masked_share": masked / TOKENS})
        assert estimate(recipe(), VOCABULARY, given).step_flops == counted(masked)


def test_activations_are_those_that_pytorch_keeps():
    model = build_model(recipe().model, VOCABULARY)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.arange(TOKENS), Segments([TOKENS]))
    measured = sum(size for size, _ in kept.values())
    estimated = estimate(recipe(), VOCABULARY, GIVEN).memory["activations"]
    assert estimated == pytest.approx(measured, rel=0.1)


def test_states_are_shared_by_the_gpus_and_activations_are_not():
    many = Assumptions(**{**vars(GIVEN), "gpus": 4})
    shared = recipe().model_copy(
        update={"data": recipe().data.model_copy(update={"rows_per_step": 4})}
    )
    one, four = (estimate(r, VOCABULARY, g) for r, g in ((recipe(), GIVEN), (shared, many)))
    for purpose in ("weights", "gradients", "AdamW"):
        assert four.memory[purpose] == one.memory[purpose] // 4
    assert four.memory["activations"] == one.memory["activations"]
    assert four.step_seconds == pytest.approx(one.step_seconds)
    with pytest.raises(RecipeError, match="too few for 4 GPUs"):
        estimate(recipe(), VOCABULARY, many)


def test_adapters_leave_little_to_learn_and_to_remember():
    lora = {"rank": 2, "fully_trained": ()}
    whole, adapted = (estimate(r, VOCABULARY, GIVEN) for r in (recipe(), recipe(lora=lora)))
    assert adapted.trained < 0.02 * whole.trained
    assert adapted.memory["AdamW"] == 8 * adapted.trained
    assert adapted.step_flops < whole.step_flops


def test_the_published_model_is_estimated_without_a_network():
    published = recipe(checkpoint="Dream-org/Dream-v0-Instruct-7B", sizes=None, speech="features")
    found = estimate(published, Vocabulary(PUBLISHED_TEXT_SIZE), GIVEN)
    assert 7.9e9 < found.parameters < 8.2e9
    assert found.memory["weights"] == 4 * found.parameters


def test_the_verb_says_what_it_assumes(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe().model_dump_json())
    result = CliRunner().invoke(app, ["estimate", str(path), "--efficiency", "0.4"])
    assert result.exit_code == 0, result.output
    assert "assuming 40% of 989 TFLOP/s; estimated, not measured" in result.output
    result = CliRunner().invoke(app, ["estimate", str(path), "optim.steps=7", "--json"])
    found = json.loads(result.output)
    assert found["total_hours"] == pytest.approx(7 * found["step_seconds"] / 3600)

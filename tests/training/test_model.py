"""A recipe becomes the model that it describes; adapters learn little and merge exactly."""

import pytest
import torch

from dreams import tiny_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.checkpoint import save_checkpoint
from omni_diffusion.backbone.config import DreamConfig, rows_before_extension
from omni_diffusion.backbone.dream import Dream, initialise
from omni_diffusion.errors import RecipeError, WeightsError
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.vocabulary import Vocabulary
from omni_diffusion.training.export import merged
from omni_diffusion.training.lora import add_lora
from omni_diffusion.training.model import build_model
from omni_diffusion.training.model_recipe import LoraRecipe, ModelRecipe, SizesRecipe

VOCABULARY = Vocabulary(text_size=256)
SIZES = SizesRecipe(
    hidden_size=8,
    intermediate_size=12,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
)
IDS = torch.arange(20)
ROW = Segments([12, 8])


def test_sizes_become_a_model_over_the_corpora_vocabulary():
    model = build_model(ModelRecipe(sizes=SIZES), VOCABULARY)
    assert model.config.vocab_size == VOCABULARY.size
    assert model.config.mask_token_id == VOCABULARY.mask_id
    again = build_model(ModelRecipe(sizes=SIZES), VOCABULARY)
    other = build_model(ModelRecipe(sizes=SIZES, seed=1), VOCABULARY)
    first, second, third = (m.lm_head.weight for m in (model, again, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_a_checkpoint_over_dreams_vocabulary_is_extended(tmp_path):
    config = DreamConfig(
        vocab_size=rows_before_extension(VOCABULARY),
        mask_token_id=VOCABULARY.mask_id,
        pad_token_id=VOCABULARY.end_of_text_id,
        **SIZES.model_dump(),
    )
    base = Dream(config)
    initialise(base, 0)
    save_checkpoint(base.state_dict(), config, tmp_path / "base", dtype=torch.float32)
    recipe = ModelRecipe(checkpoint=str(tmp_path / "base"))
    model = build_model(recipe, VOCABULARY)
    assert torch.equal(model.lm_head.weight[: config.vocab_size], base.lm_head.weight)
    with pytest.raises(WeightsError, match="holds no speech encoder"):
        build_model(recipe.model_copy(update={"speech": "features"}), VOCABULARY)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "exactly one of checkpoint and sizes"),
        ("{checkpoint: a/b, sizes: " + SIZES.model_dump_json() + "}", "exactly one"),
        ("{checkpoint: a/b, speech_encoder: c}", "no use where speech is codes"),
        ("{sizes: " + SIZES.model_dump_json() + ", speech: features}", "needs speech_encoder"),
        ("{checkpoint: a/b, lora: {rang: 3}}", "did you mean 'rank'"),
    ],
)
def test_a_recipe_that_describes_no_model_is_refused(tmp_path, text, message):
    (tmp_path / "model.yaml").write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_recipe(tmp_path / "model.yaml", ModelRecipe)


def test_adapters_change_nothing_until_they_learn_and_merge_to_what_they_learned():
    plain = tiny_dream()
    model = tiny_dream()
    add_lora(model, LoraRecipe(rank=2, alpha=4, fully_trained=("lm_head",)), seed=0)
    torch.testing.assert_close(model(IDS, ROW), plain(IDS, ROW))

    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert all(".lora_" in name or name == "lm_head.weight" for name in learning)
    optimiser = torch.optim.SGD(learning.values(), lr=0.1)
    for _ in range(2):  # the first matrices only learn once the second ones are not zero
        model.logits(model(IDS, ROW)).square().mean().backward()
        assert all(p.grad is not None for p in learning.values())
        optimiser.step()
    trained = model(IDS, ROW).detach()
    assert (trained - plain(IDS, ROW)).abs().max() > 1e-3

    plain.load_state_dict(merged(model, {}))
    torch.testing.assert_close(plain(IDS, ROW).detach(), trained, rtol=1e-5, atol=1e-5)


def test_adapters_begin_alike_with_the_same_seed():
    def first_matrices(seed):
        model = tiny_dream()
        add_lora(model, LoraRecipe(rank=2), seed)
        return torch.cat([p.flatten() for n, p in model.named_parameters() if "lora_A" in n])

    assert torch.equal(first_matrices(3), first_matrices(3))
    assert not torch.equal(first_matrices(3), first_matrices(4))


def test_adapters_for_layers_that_do_not_exist_are_refused():
    with pytest.raises(RecipeError, match="no part 'w_proj'"):
        add_lora(tiny_dream(), LoraRecipe(targets=("w_proj",)), seed=0)

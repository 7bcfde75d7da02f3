"""Checkpoints go out and come back unchanged, and what does not fit is named."""

import ctypes
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from dreams import tiny_dream, tiny_speech
from omni_diffusion.backbone import checkpoint
from omni_diffusion.backbone.checkpoint import load_checkpoint, load_dream, save_checkpoint
from omni_diffusion.backbone.config import DreamConfig, rows_before_extension
from omni_diffusion.backbone.dream import Dream, initialise
from omni_diffusion.errors import WeightsError
from omni_diffusion.tokenize.vocabulary import Vocabulary

VOCABULARY = Vocabulary(text_size=256)


def same(one: Dream, other: Dream) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("speech", [None, tiny_speech()], ids=["codes", "features"])
@pytest.mark.parametrize("max_shard_bytes", [10**9, 4000], ids=["one file", "many files"])
def test_export_then_import_gives_the_same_model(tmp_path, speech, max_shard_bytes):
    model = tiny_dream(speech=speech)
    folder = tmp_path / "checkpoint"
    save_checkpoint(
        model.state_dict(),
        model.config,
        folder,
        speech=speech,
        dtype=torch.float32,
        max_shard_bytes=max_shard_bytes,
    )
    assert same(load_dream(folder), model)
    assert (len(list(folder.glob("*.safetensors"))) > 1) == (max_shard_bytes == 4000)


def test_files_are_ordinary_safetensors_with_the_published_index(tmp_path):
    model = tiny_dream()
    save_checkpoint(model.state_dict(), model.config, tmp_path / "c", max_shard_bytes=4000)
    index = json.loads((tmp_path / "c" / "model.safetensors.index.json").read_text())
    found = {}
    for name in set(index["weight_map"].values()):
        tensors = load_file(tmp_path / "c" / name)
        assert all(index["weight_map"][key] == name for key in tensors)
        found |= tensors
    assert found.keys() == model.state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(found[key], tensor.bfloat16())
    assert index["metadata"]["total_size"] == sum(2 * t.numel() for t in found.values())


def test_neither_import_nor_export_holds_two_copies(tmp_path, monkeypatch):
    """Private memory never grows by much more than the model on import, or a tensor on export."""
    config = DreamConfig(
        vocab_size=3000,
        hidden_size=512,
        intermediate_size=2048,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        mask_token_id=2999,
        pad_token_id=2998,
    )
    peak = 0
    give_back = ctypes.CDLL(None).malloc_trim  # what tests before this one have freed

    def sample(*_):
        nonlocal peak
        status = Path("/proc/self/status").read_text()
        peak = max(peak, int(status.split("RssAnon:")[1].split()[0]) * 1024)

    def watch(name):
        real = getattr(checkpoint, name)

        def watched(*arguments):
            result = real(*arguments)
            sample()
            return result

        monkeypatch.setattr(checkpoint, name, watched)

    watch("put_whole")
    watch("_stored_bytes")
    model = Dream(config)
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    give_back(0)
    sample()
    before, peak = peak, 0
    save_checkpoint(model.state_dict(), config, tmp_path / "c", dtype=torch.float16)
    assert peak - before < size / 4
    del model
    give_back(0)
    peak = 0
    sample()
    before, peak = peak, 0
    load_dream(tmp_path / "c")
    assert size / 2 < peak - before < size * 1.5  # two copies would be twice the size


@pytest.fixture
def base(tmp_path):
    """A checkpoint over Dream's own vocabulary: text, specials, and rows that mean nothing."""
    config = DreamConfig(
        vocab_size=rows_before_extension(VOCABULARY) + 5,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        mask_token_id=VOCABULARY.mask_id,
        pad_token_id=VOCABULARY.end_of_text_id,
    )
    model = Dream(config)
    initialise(model, 0)
    save_checkpoint(model.state_dict(), config, tmp_path / "base", dtype=torch.float32)
    return tmp_path / "base", model


def test_extending_keeps_what_was_learned_and_starts_new_ids_at_its_mean(base):
    folder, old = base
    new = load_dream(folder, vocabulary=VOCABULARY, seed=3)
    learned = rows_before_extension(VOCABULARY)
    assert new.config.vocab_size == VOCABULARY.size
    for name in ("model.embed_tokens", "lm_head"):
        before, after = (m.get_submodule(name).weight.detach() for m in (old, new))
        assert torch.equal(after[:learned], before[:learned])
        fresh = after[learned:] - before[:learned].mean(0)
        assert fresh.std().item() == pytest.approx(0.02, rel=0.01)
        assert fresh.mean(0).abs().max() < 0.02 * 6 / len(fresh) ** 0.5
        assert len(fresh.unique(dim=0)) == len(fresh)
    assert same(new, load_dream(folder, vocabulary=VOCABULARY, seed=3))


def test_a_projector_is_fresh_where_the_checkpoint_has_none(base):
    folder, _ = base
    model = load_dream(folder, vocabulary=VOCABULARY, speech=tiny_speech())
    projector = model.model.audio_projection
    assert (projector.pre_proj_layernorm.weight == 1).all()
    assert projector.mlp[0].weight.std().item() == pytest.approx(0.02, rel=0.3)
    assert load_dream(folder).speech_config is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("model.norm.weight"), "missing model.norm.weight"),
        (lambda t: t.update(extra=torch.zeros(1)), "unexpected extra"),
        (
            lambda t: t.update({"model.norm.weight": torch.zeros(3)}),
            r"model.norm.weight: checkpoint \[3\], model \[16\]",
        ),
        (
            lambda t: t.update({"lm_head.weight": torch.zeros(49, 16)}),
            "vocabulary does not fit: the checkpoint has 49 rows, the model 50",
        ),
    ],
    ids=["missing", "extra", "mis-shaped", "vocabulary"],
)
def test_a_wrong_checkpoint_is_refused_before_anything_is_copied(tmp_path, change, message):
    model = tiny_dream()
    save_checkpoint(model.state_dict(), model.config, tmp_path / "c", dtype=torch.float32)
    (file,) = (tmp_path / "c").glob("*.safetensors")
    tensors = load_file(file)
    change(tensors)
    file.unlink()
    (tmp_path / "c" / "model.safetensors.index.json").unlink()
    save_file(tensors, tmp_path / "c" / "model.safetensors")
    target = tiny_dream(seed=9)
    before = tiny_dream(seed=9)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(target, tmp_path / "c")
    assert same(target, before)


def test_a_vocabulary_that_the_checkpoint_cannot_serve_is_refused(base):
    folder, _ = base
    with pytest.raises(WeightsError, match=r"does not fit the vocabulary: .*mask_token_id"):
        load_dream(folder, vocabulary=Vocabulary(text_size=300))
    with pytest.raises(WeightsError, match="exists already"):
        save_checkpoint({}, tiny_dream().config, folder)


def test_damaged_and_absent_files_are_named(base, tmp_path):
    folder, _ = base
    (file,) = folder.glob("*.safetensors")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(WeightsError, match=file.name):
        load_dream(folder)
    file.unlink()
    with pytest.raises(WeightsError, match="names files that are not there"):
        load_dream(folder)
    (folder / "config.json").write_text('{"hidden_act": "gelu"}')
    with pytest.raises(WeightsError, match="hidden_act is 'gelu'"):
        load_dream(folder)
    with pytest.raises(WeightsError, match="no such file or folder"):
        load_dream(tmp_path / "nowhere")


def test_published_configurations_are_read_in_old_and_new_spelling(tmp_path):
    config = DreamConfig()
    raw = json.loads(config.to_json())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(raw))
    assert DreamConfig.from_json(file) == config
    del raw["rope_theta"]
    raw["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e6}
    file.write_text(json.dumps(raw))
    assert DreamConfig.from_json(file) == config
    raw["rope_parameters"]["rope_type"] = "yarn"
    file.write_text(json.dumps(raw))
    with pytest.raises(WeightsError, match="rope_type"):
        DreamConfig.from_json(file)


def test_the_published_sizes_hold_seven_billion_parameters():
    with torch.device("meta"):
        model = Dream(DreamConfig())
    total = sum(p.numel() for p in model.parameters())
    assert 7.6e9 < total < 7.9e9
    assert DreamConfig().vocab_size == Vocabulary(text_size=151_643).size

"""From what is asked to rows of ids and back: lengths, layouts, parts, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from checkpoints import FINGERPRINTS, demo_checkpoint, demo_dream
from omni_diffusion.backbone.config import DreamConfig
from omni_diffusion.errors import FingerprintError, MediaError, RecipeError, WeightsError
from omni_diffusion.generation.ask import Ask, BadLine, read_asks
from omni_diffusion.generation.generation_recipe import TASKS, GenerationRecipe
from omni_diffusion.generation.kit import Kit, Names, load_checkpoint
from omni_diffusion.generation.layout import KINDS, prepare_ask
from omni_diffusion.generation.lengths import LengthRule
from omni_diffusion.generation.reply import read_answer
from omni_diffusion.generation.request import RequestError
from omni_diffusion.generation.sampler import generate
from omni_diffusion.recipe import load_recipe
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.tokenize.vocabulary import TokenKind

TEXT = TextTokenizer.from_pretrained("demo")
VOCABULARY = TEXT.vocabulary
MASK = VOCABULARY.mask_id
END = VOCABULARY.control_id("<|im_end|>")
MODEL = demo_dream()
RECIPE = GenerationRecipe.from_preset()


class Ears:
    """A kit whose pictures and sounds are numbers: no network is needed to lay out a prompt."""

    def __init__(self, speech: int = 50):
        self.text, self.demo, self.padded = TEXT, True, True
        self.template = Kit(TEXT, Names.demo()).template
        self.speech = speech

    def picture_codes(self, _picture, pixels, _name):
        return np.arange(pixels // 16 * (pixels // 16), dtype=np.int32)

    def speech_codes(self, _sound, _name):
        return np.arange(self.speech, dtype=np.int32)

    def grey_square(self, picture, pixels, _name):
        levels = np.zeros((pixels, pixels), np.uint8)
        levels[: len(picture), 0] = 255
        return levels


def ask_of(task, **changes):
    """A whole request of any task."""
    parts = {"text": "A cat.", "image": b"i", "audio": b"a"}
    needs = {
        "t2i": ("text",),
        "tts": ("text",),
        "chat": ("text",),
        "s2i": ("audio",),
        "asr": ("audio",),
        "sqa": ("audio",),
        "caption": ("image",),
        "vqa": ("text", "image"),
        "svqa": ("audio", "image"),
    }[task]
    return Ask(**({"task": task} | {name: parts[name] for name in needs} | changes))


def laid(ask, recipe=RECIPE, kit=None):
    return prepare_ask(ask, MODEL, kit or Ears(), recipe)


@given(st.integers(0, 400), st.integers(0, 2000))
def test_the_papers_length_rules(text, speech):
    recipe = GenerationRecipe.from_preset("paper")
    assert recipe.t2i.length.length(text, speech) == 256
    spoken = recipe.tts.length.length(text, speech)
    assert spoken == min(max(int(np.ceil(3.5 * text)), 1), 2048)
    written = recipe.asr.length.length(text, speech)
    assert max(speech / 5, 1) <= written < speech / 5 + 1 or written in (1, 2048)


def test_a_length_rule_that_gives_nothing_is_refused():
    with pytest.raises(ValueError, match="one of tokens"):
        LengthRule()
    with pytest.raises(ValueError, match="least 9 is more than most 3"):
        LengthRule(tokens=4, least=9, most=3)


def test_a_recipe_changes_only_what_it_says(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("preset: paper\nt2i: {sampler: {steps: 9}}\n")
    recipe = load_recipe(file, GenerationRecipe, ["asr.length.tokens=7"])
    paper = GenerationRecipe.from_preset("paper")
    assert recipe.t2i.sampler == paper.t2i.sampler.model_copy(update={"steps": 9})
    assert recipe.asr.length.tokens == 7 and recipe.tts == paper.tts
    file.write_text(recipe.to_yaml())
    assert load_recipe(file, GenerationRecipe) == recipe
    file.write_text("preset: papr\n")
    with pytest.raises(RecipeError, match="'default', 'paper' or 'published-code'"):
        load_recipe(file, GenerationRecipe)
    file.write_text("t2i: {sampler: {step: 9}}\n")
    with pytest.raises(RecipeError, match="did you mean 'steps'"):
        load_recipe(file, GenerationRecipe)


@pytest.mark.parametrize("preset", ["default", "paper", "published-code"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_laid_out_and_answered(task, preset):
    """Whatever the model says, the answer is of the kind that the task gives."""
    recipe = GenerationRecipe.from_preset(preset)
    prepared = laid(ask_of(task), recipe)
    assert prepared.request.ids[: prepared.prompt].max() < VOCABULARY.size
    sampler = prepared.sampler.model_copy(update={"steps": 2, "restrict_vocabulary": True})
    sampler = sampler.model_copy(update={"allow_mask": False, "random_across_blocks": False})
    (answer,) = generate(MODEL, [prepared.request], sampler)
    assert torch.equal(answer.ids[: prepared.prompt], prepared.request.ids[: prepared.prompt])
    assert (answer.answer != MASK).all()
    kinds = set(VOCABULARY.modality_of(answer.answer.numpy()).tolist())
    parts = read_answer(answer.answer.numpy(), TEXT)
    if KINDS[task] == "picture" and preset != "published-code":
        assert parts.picture is not None and parts.filled == 0
    if KINDS[task] == "text":
        assert not kinds & {TokenKind.IMAGE, TokenKind.SPEECH} and parts.picture is None
    if KINDS[task] in ("speech", "both"):
        assert TokenKind.IMAGE not in kinds


def test_a_picture_has_its_frame_and_only_picture_codes_to_choose_from():
    prepared = laid(ask_of("t2i"))
    answer = prepared.request.ids[prepared.prompt :]
    hidden = answer == MASK
    assert hidden.sum() == 256 and hidden[1:257].all()
    assert TEXT.decode(answer[~hidden].numpy()) == (
        "<|begin_of_image|><|end_of_image|><|im_end|>\n<|endoftext|>"
    )
    ranges = prepared.request.allowed[prepared.prompt :][hidden].unique(dim=0)
    assert ranges.tolist() == [[[VOCABULARY.image_start, VOCABULARY.size]]]


def test_a_model_that_never_saw_a_pad_gets_none(tmp_path):
    folder = demo_checkpoint(tmp_path / "model")
    (folder / "omni-diffusion.json").write_text(json.dumps({"tokenizer": "demo", "tail_pads": 0}))
    kit = Ears()
    kit.padded = load_checkpoint(folder, Names())[1].padded
    answer = laid(ask_of("t2i"), kit=kit).request.ids
    assert TEXT.decode(answer[-2:].numpy()).endswith("<|im_end|>\n")


def test_lengths_follow_the_prompt():
    text = "one two three four five six seven eight"
    spoken = laid(ask_of("tts", text=text)).request
    content = int(np.ceil(3.5 * len(TEXT.encode(text))))
    newline = len(TEXT.encode("\n"))
    assert len(spoken.ids) - spoken.answer_start == 1 + content + 2 + newline
    heard = laid(ask_of("asr"), kit=Ears(200)).request
    assert len(heard.ids) - heard.answer_start == 200 // 5 + 1 + newline
    asked = laid(ask_of("asr", tokens=5), kit=Ears(200)).request
    assert len(asked.ids) - asked.answer_start == 5 + 1 + newline


def test_speech_begins_where_the_recipe_says():
    prepared = laid(ask_of("svqa"))
    answer = prepared.request.ids[prepared.prompt :]
    begin = VOCABULARY.control_id("<|begin_of_audio|>")
    assert torch.nonzero(answer == begin).tolist() == [[int(0.25 * len(answer))]]


def test_no_answer_ends_before_it_has_begun():
    newline = len(TEXT.encode("\n"))
    spoken = laid(ask_of("tts", tokens=20)).request
    codes = [[VOCABULARY.speech_start, VOCABULARY.image_start], *[[0, 0]] * (3 + newline)]
    places = spoken.allowed[spoken.answer_start :].tolist()
    assert places[: 1 + 8] == [codes] * 9 and places[9] != codes
    written = laid(ask_of("chat", tokens=20)).request
    text = [[0, TEXT.base_size], [0, 0], [0, 0]]
    places = written.allowed[written.answer_start :].tolist()
    assert places[0] == text and places[1] != text


def test_inpainting_gives_every_known_code():
    prepared = laid(ask_of("t2i", image=b"i", inpaint=b"x" * 20))
    answer = prepared.request.ids[prepared.prompt :][1:257]
    expected = torch.arange(256) + VOCABULARY.image_start
    hidden = answer == MASK
    # Twenty light pixels from the top left reach into two cells of sixteen.
    assert torch.nonzero(hidden)[:, 0].tolist() == [0, 16]
    assert torch.equal(answer[~hidden], expected[~hidden])
    with pytest.raises(RequestError, match="nothing to draw anew"):
        laid(ask_of("t2i", image=b"i", inpaint=b""))


def test_guidance_has_a_prompt_to_compare_with():
    changes = {"sampler": {"guidance": 1.0}}
    hidden = laid(ask_of("t2i"), GenerationRecipe.from_preset(t2i=changes)).request
    assert hidden.unconditional.tolist() == [MASK] * hidden.answer_start
    changes["unconditional"] = "empty"
    empty = laid(ask_of("t2i"), GenerationRecipe.from_preset(t2i=changes)).request
    assert TEXT.decode(empty.unconditional.numpy()) == (
        "<|im_start|>user\nGenerate an image based on the provided text description.\n"
        "<|im_end|>\n<|im_start|>assistant\n"
    )


@given(st.text("abc XYZ.", max_size=30), st.lists(st.integers(0, 16383), min_size=1, max_size=40))
def test_text_and_speech_come_apart_as_they_were_put_together(text, codes):
    begin, end = (VOCABULARY.control_id(f"<|{e}_of_audio|>") for e in ("begin", "end"))
    written = TEXT.encode(text).astype(np.int64)
    spoken = VOCABULARY.speech_ids(np.array(codes))
    rest = [END, *TEXT.encode("\nafter the end"), VOCABULARY.end_of_text_id]
    parts = read_answer(np.array([*written, begin, *spoken, end, *rest]), TEXT)
    assert parts.text == TEXT.normalize(text).strip()
    assert parts.speech.tolist() == codes
    assert parts.ended and parts.picture is None


def test_a_short_picture_is_filled_with_its_last_code_and_a_long_one_cut():
    ids = VOCABULARY.image_ids(np.arange(200))
    parts = read_answer(ids, TEXT)
    assert parts.picture.tolist() == [*range(200), *[199] * 56] and parts.filled == 56
    parts = read_answer(VOCABULARY.image_ids(np.arange(300)), TEXT)
    assert parts.picture.tolist() == list(range(256)) and parts.filled == 0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (Ask(task="draw"), "'draw' is none of t2i, s2i"),
        (Ask(task="t2i"), "t2i needs text, which is missing"),
        (Ask(task="svqa"), "svqa needs audio and image, which is missing"),
        (ask_of("asr", text="x"), "asr has no use for text"),
        (ask_of("vqa", inpaint=b"m"), "vqa gives none"),
        (ask_of("t2i", inpaint=b"m"), "t2i needs image"),
        (ask_of("t2i", tokens=9), "has 256 codes"),
        (ask_of("chat", tokens=0), "at least one"),
        (Ask(task="tts", messages=({"role": "user", "content": "x"},)), "messages are for chat"),
        (ask_of("chat", text="word " * 2000), "more than the 1024 that the model allows"),
        (ask_of("chat", messages=({"role": "bard", "content": "x"},), text=""), "'bard' is none"),
    ],
)
def test_what_cannot_be_answered_is_refused_in_words(ask, message):
    with pytest.raises(RequestError, match=message):
        laid(ask)


def test_requests_of_a_file_and_its_bad_lines(tmp_path):
    lines = [
        {"task": "t2i", "text": "a", "key": "one"},
        {"text": "b", "seed": 9},
        {"task": "t2i", "text": "a", "key": "one"},
        {"task": "t2i", "txt": "a"},
        ["t2i"],
        {"task": "t2i", "text": 3},
        {"task": "t2i", "text": "a", "key": "../x"},
        {"task": "asr", "audio": "a.wav"},
    ]
    path = tmp_path / "asks.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\nnot json\n\n")
    found = list(read_asks(path, "chat", 100))
    good = [item for item in found if isinstance(item, Ask)]
    assert [(a.key, a.task, a.seed) for a in good] == [
        ("one", "t2i", 100),
        ("00001", "chat", 9),
        ("00007", "asr", 107),
    ]
    assert good[2].audio == tmp_path / "a.wav"
    reasons = [item.reason for item in found if isinstance(item, BadLine)]
    expected = ("stands twice", "unknown key 'txt'", "is list", "text is int", "name of a file")
    for reason, part in zip(reasons, (*expected, "line 9"), strict=True):
        assert part in reason
    with pytest.raises(RequestError, match="cannot be read"):
        list(read_asks(tmp_path / "none", None, 0))


def test_a_checkpoint_brings_its_tokenizers(tmp_path):
    model, kit = load_checkpoint(demo_checkpoint(tmp_path / "model"), Names())
    assert kit.demo and kit.fingerprints == FINGERPRINTS
    assert model.config.vocab_size == VOCABULARY.size
    assert kit.draw(np.arange(256)).size == (256, 256)
    assert len(kit.sound(np.arange(10)).samples) == 10 * kit.sound(np.arange(1)).samples.numel()
    # A run folder is taken for the model in it.
    assert load_checkpoint(tmp_path, Names())[1].demo


def test_another_vocabulary_or_tokenizer_is_refused(tmp_path):
    folder = demo_checkpoint(tmp_path / "model")
    config = DreamConfig.from_json(folder / "config.json")
    (folder / "config.json").write_text(replace(config, vocab_size=30_000).to_json())
    with pytest.raises(WeightsError, match="vocab_size 30000 against 28720"):
        load_checkpoint(folder, Names())
    other = demo_checkpoint(tmp_path / "other", text="0123456789abcdef")
    with pytest.raises(FingerprintError, match="trained with 0123456789abcdef"):
        load_checkpoint(other, Names())
    image = demo_checkpoint(tmp_path / "image", image="magvit2-demo-0000000000000000")
    _, kit = load_checkpoint(image, Names())
    with pytest.raises(FingerprintError, match="image tokenizer"):
        kit.draw(np.arange(256))
    (folder / "omni-diffusion.json").unlink()
    with pytest.raises(WeightsError, match="names none; give --text-tokenizer"):
        load_checkpoint(folder, Names())


def test_unreadable_uploads_are_named(tmp_path):
    _, kit = load_checkpoint(demo_checkpoint(tmp_path / "model"), Names())
    with pytest.raises(MediaError, match="image"):
        prepare_ask(ask_of("caption", image=b"no picture"), MODEL, kit, RECIPE)
    with pytest.raises(MediaError, match="audio"):
        prepare_ask(ask_of("asr", audio=b"no sound"), MODEL, kit, RECIPE)

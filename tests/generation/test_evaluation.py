"""Benchmarks: their layouts are read, and their scores are those of cases worked by hand."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from checkpoints import FINGERPRINTS, demo_dream
from omni_diffusion.generation.evaluation import choices, layouts, report, suites
from omni_diffusion.generation.evaluation.clip import Clip, mean_cosine
from omni_diffusion.generation.evaluation.items import BenchmarkError
from omni_diffusion.generation.evaluation.words import word_errors
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.kit import Kit, Names
from omni_diffusion.generation.studio import Studio
from omni_diffusion.tokenize.text import TextTokenizer


def test_word_errors_worked_by_hand():
    """After normalization Mr. is mister, colour color and ten 10: none of these is an error."""
    said = ["Mr. Smith likes the colour", "It's ten to nine now!", "..."]
    heard = ["mister smith like color", "it is 10 to 9 right now", "x"]
    found = word_errors(said, heard)
    # mister smith likes the color -> mister smith like . color; right comes in before now.
    assert found.skipped == 1 and found.texts == 2
    assert found.words == 5 + 6
    assert (found.substitutions, found.deletions, found.insertions) == (1, 1, 1)
    assert found.wer == pytest.approx(3 / 11)


def test_word_errors_of_nothing():
    assert word_errors([], []).wer == 0.0
    assert word_errors(["a b"], [""]).wer == 1.0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Yes, there is a dog.", "yes"),
        ("No.", "no"),
        ("There is not a dog. Yes", "no"),
        ("no, none", "no"),
        ("A dog", "yes"),
        ("", "yes"),
        ("Nothing", "yes"),
        ("Yes. There is no cat.", "yes"),
    ],
)
def test_pope_reads_answers_as_its_script_does(text, answer):
    assert choices.pope_answer(text) == answer


def test_pope_scores_worked_by_hand():
    answers = ["yes", "yes", "no", "no", "yes"]
    labels = ["yes", "no", "no", "yes", "yes"]
    found = choices.pope_scores(answers, labels)
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["yes_ratio"] == pytest.approx(3 / 5)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_pope_scores_equal_their_definitions(pairs):
    words = {True: "yes", False: "no"}
    found = choices.pope_scores([words[a] for a, _ in pairs], [words[b] for _, b in pairs])
    a, b = np.array(pairs).T
    hits = (a & b).sum()
    assert found["accuracy"] == pytest.approx((a == b).mean())
    if hits:
        assert found["f1"] == pytest.approx(2 * hits / (a.sum() + b.sum()))


def test_mme_scores_worked_by_hand():
    assert [choices.mme_answer(t) for t in ("Yes", " no. ", "yes, it", "It is no", "")] == [
        "yes",
        "no",
        "yes",
        "other",
        "other",
    ]
    rows = [
        ("count", "a", "yes", "yes"),
        ("count", "a", "no", "no"),
        ("count", "b", "yes", "yes"),
        ("count", "b", "other", "no"),
        ("OCR", "c", "no", "yes"),
        ("OCR", "c", "no", "no"),
        ("code_reasoning", "d", "yes", "yes"),
        ("code_reasoning", "d", "no", "no"),
    ]
    found = choices.mme_scores(rows)
    assert found["subtasks"]["count"] == {"acc": 75.0, "acc_plus": 50.0, "score": 125.0}
    assert found["subtasks"]["OCR"] == {"acc": 50.0, "acc_plus": 0.0, "score": 50.0}
    # Reasoning is no perception.
    assert found["perception"] == 175.0


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C) red", "C"),
        ("A. Paris", "A"),
        ("the answer is Rome", "B"),
        ("Apple", ""),
        ("Paris or Rome", ""),
        ("", ""),
        ("D\n", "D"),
    ],
)
def test_seed_letters(text, letter):
    assert choices.seed_answer(text, ["Paris", "Rome", "Oslo", ""]) == letter


def test_accuracy_by_group_and_its_interval():
    rows = [("chart", True), ("chart", False), ("map", True), ("web", False)]
    assert choices.group_accuracy(rows) == {
        "accuracy": 50.0,
        "chart": 50.0,
        "map": 100.0,
        "web": 0.0,
    }
    # Wilson 1927, 8 of 10: published tables give 0.490 to 0.943.
    assert choices.wilson(8, 10) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    assert choices.wilson(0, 0) == (0.0, 1.0)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Small folders in the layouts of all benchmarks."""
    root = tmp_path_factory.mktemp("benchmarks")
    picture = Image.new("RGB", (64, 48), (200, 30, 30))
    sound = 0.2 * np.sin(np.arange(8_000) / 5)
    chapter = root / "LibriSpeech/test-clean/61/70968"
    chapter.mkdir(parents=True)
    (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN\n61-70968-0001 TO SING\n")
    for number in (0, 1):
        soundfile.write(chapter / f"61-70968-000{number}.flac", sound, 16_000)
    book = root / "LibriTTS/test-clean/61/70968"
    book.mkdir(parents=True)
    (book / "61_70968_000_000.normalized.txt").write_text("He began\n to sing.")
    (root / "val2014").mkdir()
    for name in ("COCO_val2014_000000000007.jpg", "COCO_val2014_000000000009.jpg"):
        picture.save(root / "val2014" / name)
    notes = [(9, 5, "second of nine"), (9, 4, "first\nof nine"), (7, 8, "only of seven")]
    coco = {
        "images": [{"id": i, "file_name": f"COCO_val2014_{i:012d}.jpg"} for i in (7, 9)],
        "annotations": [{"image_id": i, "id": n, "caption": c} for i, n, c in notes],
    }
    (root / "captions_val2014.json").write_text(json.dumps(coco))
    question = {"question_id": 1, "image": "COCO_val2014_000000000007.jpg", "label": "yes"}
    lines = [question | {"text": "Is there a cat?"}, question | {"text": "A dog?", "label": "no"}]
    (root / "coco_pope_random.json").write_text("\n".join(map(json.dumps, lines)))
    (root / "MME/eval_tool/Your_Results").mkdir(parents=True)
    for subtask in layouts.PERCEPTION:
        (root / "MME/images" / subtask).mkdir(parents=True)
        picture.save(root / "MME/images" / subtask / "1.png")
        rows = "1.png\tIs it red? Please answer yes or no.\tYes\n1.png\tIs it blue?\tNo\n"
        (root / "MME/eval_tool/Your_Results" / f"{subtask}.txt").write_text(rows)
    (root / "text_rich").mkdir()
    picture.save(root / "text_rich/1.png")
    letters = {f"choice_{c}": c * 3 for c in "abcd"}
    seed = {"question": "What?", "answer": "C", "data_id": "text_rich/1.png", "question_id": "7"}
    questions = [seed | letters | {"question_image_type": kind} for kind in ("chart", "map")]
    (root / "SEED-Bench-2-Plus.json").write_text(json.dumps({"questions": questions}))
    soundfile.write(root / "said.wav", sound, 16_000)
    (root / "s2i.jsonl").write_text(
        json.dumps({"audio": "said.wav", "text": "a red field", "image": "text_rich/1.png"}) + "\n"
    )
    return root


def test_layouts_are_read_in_a_fixed_order(published):
    heard = list(layouts.librispeech(published / "LibriSpeech"))
    assert [(i.ask.key, i.expected) for i in heard] == [
        ("61-70968-0000", "HE BEGAN"),
        ("61-70968-0001", "TO SING"),
    ]
    assert heard[0].ask.audio.is_file()
    (said,) = layouts.libritts(published / "LibriTTS")
    assert (said.ask.key, said.ask.text) == ("61_70968_000_000", "He began to sing.")
    drawn = list(layouts.coco(published / "captions_val2014.json", published / "val2014"))
    assert [i.ask.text for i in drawn] == ["only of seven", "first of nine"]
    assert all(i.reference.is_file() for i in drawn)
    asked = list(layouts.pope(published / "coco_pope_random.json", published / "val2014"))
    assert [i.expected for i in asked] == ["yes", "no"] and asked[0].ask.image.is_file()
    perceived = list(layouts.mme(published / "MME"))
    assert (
        len(perceived) == 20 and perceived[1].expected == "no" and perceived[0].ask.image.is_file()
    )
    chosen = list(layouts.seed2plus(published / "SEED-Bench-2-Plus.json", published))
    assert [i.group for i in chosen] == ["chart", "map"]
    assert "\nC. ccc\n" in chosen[0].ask.text and chosen[0].ask.image.is_file()
    (spoken,) = layouts.spoken_pictures(published / "s2i.jsonl")
    assert spoken.ask.audio.is_file() and spoken.reference.is_file()


@pytest.mark.parametrize(
    ("name", "content", "reader", "message"),
    [
        ("a.json", "{", layouts.seed2plus, "no list of questions"),
        ("b.json", '{"questions": [{"question": "x"}]}', layouts.seed2plus, "answer is missing"),
        ("c.jsonl", '{"image": "a", "text": "b", "label": "maybe"}', layouts.pope, "'maybe'"),
        ("d.jsonl", "{", layouts.pope, "line 1"),
        ("e.json", "[]", layouts.coco, "layout of MSCOCO"),
    ],
)
def test_files_in_another_layout_are_named(tmp_path, name, content, reader, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(BenchmarkError, match=message) as error:
        list(reader(tmp_path / name, tmp_path))
    assert name in str(error.value)


def test_missing_folders_are_named(tmp_path):
    with pytest.raises(BenchmarkError, match="none: no such folder"):
        list(layouts.librispeech(tmp_path / "none"))
    with pytest.raises(BenchmarkError, match=r"existence\.txt: cannot be read"):
        list(layouts.mme(tmp_path))
    with pytest.raises(BenchmarkError, match="holds no item"):
        layouts.chosen(layouts.librispeech(tmp_path), None, "x")


@pytest.fixture(scope="module")
def studio():
    """An untrained model: what it answers is noise, the scores of which are still scores."""
    short = {"length": {"tokens": 4}}
    recipe = GenerationRecipe.from_preset(
        vqa=short, asr=short, t2i={"sampler": {"steps": 2}}, s2i={"sampler": {"steps": 2}}
    )
    kit = Kit(TextTokenizer.from_pretrained("demo"), Names(), FINGERPRINTS)
    return Studio(demo_dream(), kit, recipe)


class Parrot:
    """Hears always the same."""

    fingerprint = "parrot"

    def transcribe_many(self, sounds):
        return ["he began" for _ in sounds]


def run(studio, items, suite, steps=(None,)):
    rows = []
    found = suites.run_steps(
        studio, items, suite, steps, batch=4, on_answer=lambda n, a: rows.append((n, suite.row(a)))
    )
    return found, rows


def test_every_benchmark_runs_from_its_files_to_its_scores(studio, published):
    asr, rows = run(studio, list(layouts.librispeech(published)), suites.AsrSuite())
    assert asr[0]["scores"]["words"] == 4 and asr[0]["items"] == 2
    assert rows[0][1]["expected"] == "HE BEGAN"
    spoken, _ = run(studio, list(layouts.libritts(published)), suites.TtsSuite(Parrot()))
    assert spoken[0]["scores"]["wer"] == pytest.approx(2 / 4)
    items = list(layouts.mme(published / "MME"))[:4]
    mme, rows = run(studio, items, suites.MmeSuite(), steps=(1, 3))
    assert [row["steps"] for row in mme] == [1, 3] and len(rows) == 8
    assert set(mme[0]["scores"]["subtasks"]) == {"existence", "count"}
    pope = layouts.pope(published / "coco_pope_random.json", published / "val2014")
    found, rows = run(studio, list(pope), suites.PopeSuite())
    assert 0 <= found[0]["scores"]["f1"] <= 1 and set(rows[0][1]) >= {"question", "answer"}
    seed = layouts.seed2plus(published / "SEED-Bench-2-Plus.json", published)
    found, rows = run(studio, list(seed), suites.SeedSuite())
    assert set(found[0]["scores"]) == {"accuracy", "chart", "map", "unread"}
    spoken = list(layouts.spoken_pictures(published / "s2i.jsonl"))
    found, rows = run(studio, spoken, suites.PictureSuite(None, studio))
    assert 0 <= found[0]["scores"]["speech_text_codes_equal"] <= 1
    assert len(rows[0][1]["codes"]) == 256


def test_an_item_that_cannot_be_answered_stops_the_benchmark(studio, published):
    (item, *_) = layouts.librispeech(published)
    lost = replace(item, ask=replace(item.ask, audio=published / "none.flac"))
    with pytest.raises(BenchmarkError, match=r"none\.flac"):
        run(studio, [lost], suites.AsrSuite())


def test_speech_that_says_the_text_agrees_with_it(studio, published):
    """A reply compared with itself: all codes equal."""
    (item,) = layouts.spoken_pictures(published / "s2i.jsonl")
    text = replace(item, ask=replace(item.ask, task="t2i", text=item.expected, audio=None))
    (found, *_), _ = run(studio, [text], suites.PictureSuite(None, studio))
    assert found["scores"]["speech_text_codes_equal"] == 1.0


def test_results_hold_what_is_needed_to_repeat_them(studio, published, tmp_path):
    items = list(layouts.librispeech(published))
    rows, _ = run(studio, items, suites.AsrSuite(), steps=(1, 4))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights/a.safetensors").write_bytes(b"1")
    facts = {"items_sha256": report.digest_items(items)}
    told = report.describe(studio, "x", tmp_path / "weights", facts) | {"by_steps": rows}
    shown = report.write(tmp_path, told, "asr")
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["recipe_digest"] == studio.recipe.digest() and kept["demo_weights"]
    assert kept["tokenizers"]["trained_with"] == FINGERPRINTS
    assert len(kept["weights_sha256"]) == len(kept["data"]["items_sha256"]) == 64
    assert (
        shown.splitlines()[0].startswith("| steps | items | wer |") and len(shown.splitlines()) == 4
    )
    with Image.open(tmp_path / "quality.png") as plot:
        assert plot.width > 300
    (tmp_path / "weights/a.safetensors").write_bytes(b"2")
    assert report.digest_folder(tmp_path / "weights") != kept["weights_sha256"]
    assert report.digest_items(items[:1]) != kept["data"]["items_sha256"]


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A tiny CLIP with weights of its own, saved as published ones are."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(97, 123)]
    words = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer.from_pretrained(folder).save_pretrained(folder)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    sizes |= {"num_attention_heads": 2, "projection_dim": 8}
    text = sizes | {"vocab_size": len(words), "max_position_embeddings": 12}
    text |= {"bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1}
    vision = sizes | {"image_size": 32, "patch_size": 8}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    return folder


def test_clip_scores_equal_those_of_the_library(clip_folder):
    from transformers import AutoTokenizer, CLIPModel

    clip = Clip(str(clip_folder))
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    pictures = [Image.fromarray(noise), Image.new("RGB", (32, 32), (10, 200, 30))]
    texts = ["a red ball", "so"]
    model = CLIPModel.from_pretrained(clip_folder).eval()
    given = AutoTokenizer.from_pretrained(clip_folder)(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        out = model(pixel_values=torch.stack([clip.pixels(p) for p in pictures]), **given)
    expected = (out.text_embeds * out.image_embeds).sum(1).mean()
    found = mean_cosine(clip.texts(texts), clip.pictures(pictures))
    assert found == pytest.approx(float(expected), abs=1e-6)
    vectors = clip.pictures(pictures)
    assert mean_cosine(vectors, vectors) == pytest.approx(1.0, abs=1e-6)
    # The second is of the model's size already: only the levels change.
    levels = torch.tensor([10, 200, 30]) / 255
    mean, deviation = (
        torch.tensor(x) for x in ((0.48145466, 0.4578275, 0.40821073), clip._deviation)
    )
    torch.testing.assert_close(clip.pixels(pictures[1])[:, 5, 7], (levels - mean) / deviation)


def test_pictures_are_scored_by_text_and_reference(studio, published, clip_folder):
    items = list(layouts.coco(published / "captions_val2014.json", published / "val2014"))
    clip = Clip(str(clip_folder))
    (row,), _ = run(studio, items, suites.PictureSuite(clip))
    scores = row["scores"]
    assert scores["pictures"] == 2 and -1 <= scores["clip_t"] <= 1 and -1 <= scores["clip_i"] <= 1


def test_a_recogniser_hears_each_sound_once():
    heard = []
    counting = SimpleNamespace(
        fingerprint="x", transcribe_many=lambda s: heard.append(1) or ["a"] * len(s)
    )
    suite = suites.TtsSuite(counting)
    sound = SimpleNamespace(samples=torch.zeros(4), sample_rate_hz=16_000)
    reply = SimpleNamespace(sound=sound)
    answered = SimpleNamespace(item=SimpleNamespace(expected="a"), reply=reply)
    silent = SimpleNamespace(item=SimpleNamespace(expected="b"), reply=SimpleNamespace(sound=None))
    assert suite.row(answered) == {"expected": "a", "heard": "a"}
    scores = suite.score([answered, silent])
    assert (len(heard), scores["wer"], scores["silent"]) == (1, 0.5, 1)

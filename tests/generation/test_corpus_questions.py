"""Samples of a token corpus as questions, and what an answer that is known scores."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from asked_corpus import CODES, SPOKEN, asked_corpus, sample
from checkpoints import FINGERPRINTS, demo_checkpoint, demo_dream
from omni_diffusion.cli import app
from omni_diffusion.cli.held_out import keys_of
from omni_diffusion.corpus.corpus import Corpus
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import FingerprintError, OmniError
from omni_diffusion.generation.evaluation import corpus as against
from omni_diffusion.generation.evaluation.items import BenchmarkError
from omni_diffusion.generation.generation_recipe import GenerationRecipe
from omni_diffusion.generation.kit import Kit, Names
from omni_diffusion.generation.reply import Parts
from omni_diffusion.generation.studio import Studio
from omni_diffusion.tokenize.text import TextTokenizer
from omni_diffusion.training.loader import Loader
from omni_diffusion.training.opening import load_data

TEXT = TextTokenizer.from_pretrained("demo")
RECIPE = GenerationRecipe.from_preset(t2i={"sampler": {"steps": 2}})
STUDIO = Studio(demo_dream(), Kit(TEXT, Names(), FINGERPRINTS), RECIPE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return asked_corpus(tmp_path_factory.mktemp("corpus"))


def questions(folder, **chosen):
    return list(against.questions(STUDIO, Corpus(folder), **chosen))


def test_a_question_is_the_conversation_without_its_answer(folder):
    asked = {question.prepared.ask.key: question for question in questions(folder)}
    assert set(asked) == set("abcdef")
    drawn = asked["a"].prepared
    shown = TEXT.decode(drawn.request.ids[: drawn.prompt].numpy())
    assert shown == (
        "<|im_start|>user\nGenerate an image based on the provided text description.\n"
        "A red ball.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert asked["a"].picture.tolist() == CODES.tolist() and asked["a"].text == ""
    assert asked["c"].speech.tolist() == SPOKEN.tolist()
    assert (asked["b"].text, asked["f"].text) == ("I can see it.", "Hello.")
    assert asked["f"].prepared.ask.task == "chat"
    # As a user's request is laid out: 3.5 codes for each token of the sentence alone.
    spoken = asked["c"].prepared.request
    content = max(int(np.ceil(3.5 * len(TEXT.encode("Is this it?")))), 16)
    newline = len(TEXT.encode("\n"))
    assert len(spoken.ids) - spoken.answer_start == 1 + content + 2 + newline


def training_recipe(folder, tmp_path, held_out, **data):
    """A training recipe over the corpus, one row a step."""
    recipe = tmp_path / "recipe.yaml"
    data |= {
        "sources": {"asked": {"corpus": str(folder)}},
        "tokenizer": "demo",
        "rows_per_step": 1,
        "evaluation": {"held_out": held_out},
    }
    recipe.write_text(json.dumps({"data": data}))
    return recipe


def test_a_picture_is_asked_for_in_the_very_row_that_training_shows(folder, tmp_path):
    """A model that knows a picture by heart draws it: no token stands elsewhere or is missing."""
    (question,) = questions(folder, keys=["a"])
    row = question.prepared.request.ids.numpy().copy()
    hidden = row == TEXT.vocabulary.mask_id
    row[hidden] = TEXT.vocabulary.image_ids(question.picture)
    with Loader(*load_data(training_recipe(folder, tmp_path, 0, row_length=2048))) as loader:
        batch = loader.batch(0)  # all of the corpus
    of_picture = list(batch.samples.keys).index("a")
    start, length = batch.samples.start[of_picture], batch.samples.length[of_picture]
    trained = batch.ids[batch.samples.row[of_picture], start : start + length]
    assert row.tolist() == trained[: len(row)].tolist()
    assert row[-1] == TEXT.vocabulary.end_of_text_id  # the pad that every trained sample has


def test_what_is_expected_scores_all_and_something_else_less(folder, monkeypatch):
    asked, said, rows = questions(folder), {}, []
    monkeypatch.setattr(
        STUDIO, "denoise", lambda ready, **_: [said[prepared.ask.key] for prepared in ready]
    )
    real = Studio.denoise
    for question in asked:
        reply = real(STUDIO, [question.prepared], decode=False)[0]
        text = "green" if question.prepared.ask.key == "e" else question.text
        parts = Parts(
            text=text,
            picture=question.picture,
            filled=0,
            speech=None if question.speech is None else np.r_[question.speech[:15], [1] * 15],
            ended=True,
        )
        said[question.prepared.ask.key] = replace(reply, parts=parts)
    found = {
        row["task"]: row["scores"]
        for row in against.run(
            STUDIO, asked, batch=2, on_answer=lambda q, r: rows.append(against.row(q, r))
        )
    }
    assert found["t2i"]["picture_codes_right"] == 1.0
    assert found["t2i"]["picture_answers_with_90_percent_right"] == 1
    assert found["tts"]["speech_codes_right"] == 0.5
    assert found["tts"]["speech_answers_with_90_percent_right"] == 0
    assert found["asr"]["wer"] == 0.0 and found["chat"]["answers_equal"] == 1.0
    vqa = found["vqa"]
    assert (vqa["answers_equal"], vqa["guessing_the_commonest"]) == (0.5, 0.5)
    assert vqa["interval_95"] == pytest.approx([0.0945, 0.9055], abs=1e-4)
    by_key = {row["key"]: row for row in rows}
    words = {"asked": "What shape?", "expected": "ball", "answer": "green"}
    assert by_key["e"] == {"key": "e", "task": "vqa"} | words
    assert len(rows) == 6


def test_some_samples_only(folder):
    assert [q.prepared.ask.key for q in questions(folder, task="vqa")] == ["d", "e"]
    assert [q.prepared.ask.key for q in questions(folder, keys=["e", "a"])] == ["e", "a"]
    assert len(questions(folder, limit=3)) == 3
    with pytest.raises(BenchmarkError, match="no sample to ask of svqa"):
        questions(folder, task="svqa")
    with pytest.raises(BenchmarkError, match="'zz'"):
        questions(folder, keys=["zz"])


def test_a_corpus_of_other_tokenizers_is_refused(tmp_path):
    other = tmp_path / "other"
    write_shard(Storage(other), 0, [sample("a", "t2i", "x", "<|image|>")], {"image": "magvit2-x"})
    compact(Storage(other))
    with pytest.raises(FingerprintError, match="trained with magvit2-demo"):
        questions(other)


def test_the_verb_writes_table_and_results(folder, tmp_path):
    demo_checkpoint(tmp_path / "model")
    options = ["--suite", "corpus", "--data", str(folder), "-o", str(tmp_path / "out"), "--json"]
    done = CliRunner().invoke(app, ["evaluate", str(tmp_path / "model"), *options])
    assert done.exit_code == 0, done.output
    kept = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["task"] for row in kept["by_steps"]] == ["asr", "chat", "t2i", "tts", "vqa"]
    assert kept["data"]["corpus_digest"] == Corpus(folder).manifest.digest
    assert len((tmp_path / "out/answers.jsonl").read_text().splitlines()) == 6
    assert (tmp_path / "out/table.md").read_text().startswith("| task | steps | items |")
    with Image.open(tmp_path / "out/pictures.png") as sheet:
        assert sheet.size == (12 + 268, 12 + 156)  # one pair


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "tts", "--data", "none"], "none: no such folder"),
        (["--suite", "asr", "--data", "x", "--steps", "9,a"], "expected whole numbers"),
        (["--suite", "corpus", "--data", "x", "--steps", "9"], "say TASK.sampler.steps=N"),
        (["--suite", "asr", "--data", "x", "--task", "asr"], "choose samples of --suite corpus"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_loaded(options, message):
    done = CliRunner().invoke(app, ["evaluate", "no-checkpoint", *options])
    assert message in str(done.exception)


def test_held_out_samples_are_those_that_training_never_sees(folder, tmp_path):
    recipe = training_recipe(folder, tmp_path, 0.5, row_length=1024, window_rows=4)
    keys = keys_of(recipe, folder)
    assert 0 < len(keys) < 6 and set(keys) < set("abcdef")
    opened, _ = load_data(recipe)
    rows = np.concatenate([opened.plan.step(step).index for step in range(20)])
    trained = set(Corpus(folder).index.keys(np.unique(rows)))
    assert not trained & set(keys)
    with pytest.raises(OmniError, match="holds nothing of"):
        keys_of(recipe, tmp_path / "other")

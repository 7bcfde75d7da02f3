"""Text to ids and back, with nothing lost and nothing smuggled in."""

import base64
import importlib.util
import json
from copy import deepcopy
from importlib import resources
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from omni_diffusion.errors import CodeRangeError, TextError, WeightsError
from omni_diffusion.tokenize.text import TextTokenizer, byte_characters
from omni_diffusion.tokenize.vocabulary import CONTROL_TOKENS, MASK

DEMO_FILE = resources.files("omni_diffusion.tokenize") / "demo" / "text.json"
DEMO = TextTokenizer.from_pretrained("demo")
names = st.one_of(
    st.sampled_from(CONTROL_TOKENS),
    st.integers(0, 20_000).map(lambda code: f"<|audio_{code}|>"),
    st.integers(0, 10_000).map(lambda code: f"<|image_{code}|>"),
)
texts_with_names = st.lists(st.one_of(st.text(), names)).map("".join)


@pytest.fixture(scope="module")
def qwen_path():
    spec = importlib.util.find_spec("dashscope")
    if spec is None:
        pytest.skip("needs the package dashscope, which carries qwen.tiktoken")
    return Path(spec.origin).parent / "resources" / "qwen.tiktoken"


@pytest.fixture(scope="module")
def qwen(qwen_path):
    return TextTokenizer.from_pretrained(qwen_path)


def stored_demo():
    return json.loads(DEMO_FILE.read_text("utf-8"))


def save(stored, folder):
    (folder / "tokenizer.json").write_text(json.dumps(stored), encoding="utf-8")
    return folder


@given(texts_with_names)
def test_any_text_comes_back_after_nfc_and_never_holds_a_control_id(text):
    ids = DEMO.encode(text)
    assert ids.dtype == np.uint32
    assert ids.max(initial=0) < DEMO.base_size
    assert DEMO.decode(ids) == DEMO.normalize(text)


@given(texts_with_names)
def test_control_strings_that_are_meant_come_back_too(text):
    assert DEMO.normalize(DEMO.decode(DEMO.encode_control(text))) == DEMO.normalize(text)


@given(st.lists(texts_with_names))
def test_a_batch_is_its_texts_one_by_one(texts):
    batch = DEMO.encode_batch(texts)
    assert [ids.tolist() for ids in batch] == [DEMO.encode(text).tolist() for text in texts]


@pytest.mark.parametrize("name", [*CONTROL_TOKENS, "<|audio_0|>", "<|image_8191|>"])
def test_a_control_string_is_text_in_data_and_one_id_where_it_is_meant(name):
    typed, meant = DEMO.encode(f"a{name}b"), DEMO.encode_control(f"a{name}b")
    assert typed.max() < DEMO.vocabulary.text_size
    between = DEMO.vocabulary.id_of(name)
    assert meant.tolist() == [*DEMO.encode("a"), between, *DEMO.encode("b")]


@given(st.lists(st.integers(0, DEMO.base_size - 1)))
def test_any_ids_decode_to_some_text(ids):
    DEMO.decode(ids).encode()


def test_ids_that_stand_for_nothing_are_refused(tmp_path):
    for token_id in (-1, DEMO.vocabulary.size):
        with pytest.raises(CodeRangeError, match=f"{token_id} at position 1"):
            DEMO.decode([0, token_id])
    stored = stored_demo()
    for token in stored["added_tokens"]:
        token["id"] += 10
    spaced = TextTokenizer.from_pretrained(save(stored, tmp_path))
    assert spaced.encode("a cat").tolist() == DEMO.encode("a cat").tolist()
    assert spaced.vocabulary.size == DEMO.vocabulary.size + 10
    with pytest.raises(CodeRangeError, match="stands for nothing"):
        spaced.decode([DEMO.base_size])


def test_half_a_character_from_broken_json_is_named():
    for convert in (DEMO.encode, DEMO.encode_control, DEMO.normalize):
        with pytest.raises(TextError, match=r"U\+D83D.* character 2 of 4"):
            convert("ab\ud83dc")
    with pytest.raises(TextError):
        DEMO.encode_batch(["fine", "\udc00"])


def test_the_demo_tokenizer_is_small_and_knows_its_tasks():
    assert len(DEMO_FILE.read_bytes()) < 300_000
    assert DEMO.base_size == DEMO.vocabulary.text_size == 4_099
    assert DEMO.vocabulary.size % 8 == 0
    assert [len(DEMO.encode(role)) for role in ("system", "user", "assistant")] == [1, 1, 1]
    assert len(DEMO.encode("Convert the speech to text.\n")) == 6


def test_one_tokenizer_has_one_fingerprint_in_every_file_format(tmp_path):
    """`tokenizer.json`, `vocab.json` with `merges.txt`, and tiktoken ranks."""
    stored = stored_demo()
    model = stored["model"]
    merges, ranks = tmp_path / "merges", tmp_path / "ranks"
    merges.mkdir()
    ranks.mkdir()
    (merges / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    pairs = "\n".join(" ".join(pair) for pair in model["merges"])
    (merges / "merges.txt").write_text(f"#version: 0.2\n{pairs}\n", encoding="utf-8")
    byte_of = {character: byte for byte, character in enumerate(byte_characters())}
    (ranks / "qwen.tiktoken").write_text(
        "".join(
            f"{base64.b64encode(bytes(byte_of[c] for c in word)).decode()} {rank}\n"
            for word, rank in model["vocab"].items()
        )
    )
    stored["pre_tokenizer"]["pretokenizers"][1]["trim_offsets"] = False
    found = [TextTokenizer.from_pretrained(save(stored, tmp_path))]
    found += [TextTokenizer.from_pretrained(folder) for folder in (merges, ranks)]
    assert {tokenizer.fingerprint for tokenizer in found} == {DEMO.fingerprint}

    model["merges"][-2:] = model["merges"][:-3:-1]
    other = TextTokenizer.from_pretrained(save(stored, tmp_path))
    assert other.fingerprint != DEMO.fingerprint


def test_a_copied_tokenizer_is_the_same_tokenizer():
    copy = deepcopy(DEMO)
    assert copy.encode("a red apple").tolist() == DEMO.encode("a red apple").tolist()
    assert copy.fingerprint == DEMO.fingerprint


def swap_two_added(stored):
    tokens = stored["added_tokens"]
    tokens[5]["content"], tokens[6]["content"] = tokens[6]["content"], tokens[5]["content"]


def drop_end_of_text(stored):
    del stored["added_tokens"][0]


def add_a_foreign_token(stored):
    stored["added_tokens"].append({**stored["added_tokens"][0], "id": 4_144, "content": "<|cat|>"})


def put_a_space_before(stored):
    stored["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = True


def forget_a_byte(stored):
    vocab = stored["model"]["vocab"]
    vocab["?!"] = vocab.pop("a")
    stored["model"]["merges"] = []


def leave_a_gap(stored):
    stored["model"]["merges"].pop()
    del stored["model"]["vocab"][list(stored["model"]["vocab"])[-2]]
    stored["model"]["merges"] = []


def be_another_model(stored):
    stored["model"] = {"type": "WordLevel", "vocab": {}, "unk_token": ""}


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (swap_two_added, "the layout says"),
        (drop_end_of_text, "has no <|endoftext|>"),
        (add_a_foreign_token, "'<|cat|>' has id 4144"),
        (put_a_space_before, "not byte-level"),
        (forget_a_byte, "1 of the 256 bytes"),
        (leave_a_gap, "are not 0.."),
        (be_another_model, "WordLevel"),
        (dict.clear, "cannot be read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_tokenizer_that_would_misplace_ids_is_refused(tmp_path, damage, reason):
    stored = stored_demo()
    damage(stored)
    with pytest.raises(WeightsError, match=reason.replace("|", r"\|")) as error:
        TextTokenizer.from_pretrained(save(stored, tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_folder_without_a_tokenizer_says_what_it_should_hold(tmp_path):
    with pytest.raises(WeightsError, match=r"tokenizer\.json, or vocab\.json"):
        TextTokenizer.from_pretrained(tmp_path)
    broken = tmp_path / "x.tiktoken"
    broken.write_text("IQ== zero\n")
    with pytest.raises(WeightsError, match="tiktoken ranks"):
        TextTokenizer.from_pretrained(broken)
    broken.write_text(f"IQ== 0\nIg== 1\n{base64.b64encode(b'!!!').decode()} 2\n")
    with pytest.raises(WeightsError, match="rank 2 does not join two lower ranks"):
        TextTokenizer.from_pretrained(broken)


def test_the_published_tokenizer_gives_the_published_ids(qwen):
    ids = qwen.encode("Generate an image based on the provided text description.")
    assert ids.tolist() == [31115, 458, 2168, 3118, 389, 279, 3897, 1467, 4008, 13]
    assert qwen.base_size == qwen.vocabulary.text_size == 151_643
    assert qwen.vocabulary.control_id(MASK) == 151_666
    assert qwen.vocabulary.size == 176_264


def test_merges_derived_from_ranks_join_what_the_ranks_join(qwen, qwen_path):
    """Byte-pair encoding straight from the ranks: always join the pair of lowest rank."""
    rows = (line.split() for line in qwen_path.read_bytes().splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in rows}

    def reference(word):
        parts = [bytes([byte]) for byte in word]
        while len(parts) > 1:
            joined = [ranks.get(a + b, len(ranks)) for a, b in pairwise(parts)]
            lowest = min(joined)
            if lowest == len(ranks):
                break
            at = joined.index(lowest)
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        return [ranks[part] for part in parts]

    # A run of letters is one word for the split pattern, so the reference needs no pattern.
    letters = st.text(
        st.sampled_from("aeeiourstlnndhcmpkäßéжиток北京的図"), min_size=1, max_size=40
    )

    @given(letters)
    def check(word):
        assert qwen.encode(word).tolist() == reference(qwen.normalize(word).encode())

    check()


@given(st.data())
def test_the_published_tokenizer_loses_nothing_either(qwen, data):
    text = data.draw(texts_with_names)
    assert qwen.decode(qwen.encode(text)) == qwen.normalize(text)

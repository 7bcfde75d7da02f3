"""Train the demo's small text tokenizer: `python tools/demo_tokenizers/text.py`.

A byte-level BPE of 4,099 tokens with Qwen2's split pattern, followed by the 45 control tokens in
the published order. (4,099 + 45 makes the whole vocabulary a multiple of 8, as the published one.)
It reads these texts, all from packages, and needs `pip install easy-vqa==1.0 emoji==2.16.0`:

    omni_diffusion.tokenize.prompts   the wording of the tasks (this repository)
    emoji 2.16.0                      English names of the emoji (BSD)
    easy-vqa 1.0                      questions and answers of its training set (MIT)
    pydoc_data.topics, CPython 3.11   prose of the language reference (PSF)
    this                              the Zen of Python (public domain)

The same sources give the same file, byte for byte. Other versions of them would not, so their
digest is checked before anything is written.
"""

from __future__ import annotations

import argparse
import codecs
import contextlib
import hashlib
import importlib.util
import io
import json
import pydoc_data.topics
from collections.abc import Iterator
from pathlib import Path

from tokenizers import pre_tokenizers, trainers

from omni_diffusion.tokenize.prompts import TASKS
from omni_diffusion.tokenize.text import byte_level_bpe
from omni_diffusion.tokenize.vocabulary import CONTROL_TOKENS, Vocabulary

TEXT_SIZE = 4_099
SOURCES_SHA256 = "680e7e02ffb3b82cdc5189b2fd705407ba8807ad70fd3b23de90f141ab1113f8"
DEFAULT_OUTPUT = Path(__file__).parents[2] / "src/omni_diffusion/tokenize/demo/text.json"

# What the demo corpora are made of, so that their captions and questions come out short.
CAPTIONS = (
    "A picture of {name}.",
    "a flat drawing of {name} with black outlines on a white background",
    "a glossy 3D render of {name} on a light blue background",
    "The image shows {name}.",
)
ROLES = "system user assistant"
COLOURS = "black white red green blue yellow orange purple pink brown gray teal light dark"


def main() -> None:
    """Write the tokenizer file, or stop if the sources are not the recorded ones."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=DEFAULT_OUTPUT)
    output = parser.parse_args().output
    lines = list(training_lines())
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    if digest != SOURCES_SHA256:
        raise SystemExit(f"the sources have digest {digest}, recorded is {SOURCES_SHA256}")
    output.write_bytes(train(lines))
    print(f"{output}: {output.stat().st_size:,} bytes, from {len(lines):,} lines")


def training_lines() -> Iterator[str]:
    """Every line to learn from, in a fixed order; repeated lines weigh more."""
    for system, user in TASKS.values():
        yield from [system, user] * 20
    yield from COLOURS.split() * 20
    yield from ROLES.split() * 100
    for name in emoji_names():
        yield name
        yield from (caption.format(name=name) for caption in CAPTIONS)
    yield from easy_vqa_lines()
    yield from reference_prose()
    with contextlib.redirect_stdout(io.StringIO()):  # importing `this` prints it
        import this
    yield from codecs.decode(this.s, "rot13").splitlines()


def emoji_names() -> list[str]:
    """`red apple`, `grinning face` ...: each distinct name, without skin tones."""
    table = json.loads((package_folder("emoji") / "unicode_codes/emoji.json").read_text("utf-8"))
    names = {entry["en"].strip(":").replace("_", " ") for entry in table.values()}
    return sorted(name for name in names if "skin tone" not in name)


def easy_vqa_lines() -> list[str]:
    """Each distinct question and answer of the training set."""
    path = package_folder("easy_vqa") / "data/train/questions.json"
    rows = json.loads(path.read_text("utf-8"))
    return sorted({row[0] for row in rows}) + sorted({row[1] for row in rows})


def reference_prose() -> Iterator[str]:
    """Lines of the language reference that are prose: not indented, mostly words."""
    for _, topic in sorted(pydoc_data.topics.topics.items()):
        for line in topic.splitlines():
            if line[:1].isalpha() and sum(c.isalpha() or c == " " for c in line) > 0.9 * len(line):
                yield line


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SystemExit(f"package {name} is not installed; see the top of this file")
    return Path(spec.origin).parent


def train(lines: list[str]) -> bytes:
    """The `tokenizer.json` of a BPE trained on `lines`, control tokens included."""
    bpe = byte_level_bpe({}, [])
    trainer = trainers.BpeTrainer(
        vocab_size=TEXT_SIZE,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(lines, trainer)
    if bpe.get_vocab_size() != TEXT_SIZE:
        raise SystemExit(f"only {bpe.get_vocab_size()} tokens came out of too little text")
    stored = json.loads(bpe.to_str())
    vocabulary = Vocabulary(TEXT_SIZE)
    stored["added_tokens"] = [
        {
            "id": vocabulary.control_id(token),
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token in CONTROL_TOKENS
    ]
    return json.dumps(stored, ensure_ascii=False, separators=(",", ":")).encode()


if __name__ == "__main__":
    main()

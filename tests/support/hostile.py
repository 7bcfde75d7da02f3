"""A corpus whose texts do all they can to break a page, with real codes of the demo tokenizers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.record import AUDIO, IMAGE, Record
from omni_diffusion.corpus.rejects import Reject
from omni_diffusion.corpus.sample import BY_NAME, SPAN, Sample, build_sample
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.tokenize.media import MediaTokenizers

GRID = 4
"""Codes along a side: 64 pixels, quickly decoded."""

SOUND_CODES = 15

ATTACKS = (
    "<script>window.attacked = 1</script>",
    "</script><script>window.attacked = 1</script>",
    "</style></title></textarea><script>window.attacked = 1</script>",
    '"><img src=x onerror="window.attacked = 1">',
    "' autofocus onfocus='window.attacked = 1' x='",
    "<svg onload=window.attacked=1><animate onbegin=window.attacked=1 attributeName=x dur=1s>",
    "<iframe src='javascript:parent.attacked=1'></iframe><a href='javascript:attacked=1'>here</a>",
    "data:text/html;base64,PHNjcmlwdD5hbGVydCgxKTwvc2NyaXB0Pg==",
    "<img src='https://example.com/beacon.png'><link rel=stylesheet href=https://example.com/x.css>",
    "<style>* { display: none !important }</style><base href='https://example.com/'>",
    "<meta http-equiv=refresh content='0;url=https://example.com/'><form action=//example.com>",
    "{{ 7 * 7 }} {% raw %} ${7*7} $\\frac{1}{2}$ <!-- ]]> -->",
    "right \u202eto left\u202c and \u2066isolated\u2069 and \u200fmarked",
    "bell \x07 escape \x1b[2J null \x00 delete \x7f c1 \x9b separator \u2028 bom \ufeff",
    "z\u0300\u0301\u0302" * 60 + " \U0001f469\u200d\U0001f467 \ufffe",
    "W" * 50_000,
    "many words " * 4_600,
    "</div></section></main></body></html>",
)


def _fields(attack: str) -> dict[str, Any]:
    """Every field of a record that a page could show."""
    short = attack[:300]
    return {
        "source": short,
        "license": short,
        "language": short[:40],
        "provenance": {"voice": short, "tts_engine": short, "origin": short},
        "quality": {"wer": 0.1, "duration_s": 1.0},
        "extra": {short: short},
    }


def hostile_sample(number: int, rng: np.random.Generator) -> Sample:
    """A text, a picture or a sound, in turns, with one of the attacks in every field."""
    key, attack = f"h{number}", ATTACKS[number]
    kind = ("text", "image256", "speech")[number % 3]
    shown = {"text": attack, "image256": IMAGE, "speech": AUDIO}[kind]
    messages = [{"role": "user", "content": attack}, {"role": "assistant", "content": shown}]
    fields: dict[str, Any] = {"messages": messages, "task": ("text", "t2i", "tts")[number % 3]}
    fields |= {"images": [attack[:200]] if kind == "image256" else []}
    fields |= {"audios": [attack[:200]] if kind == "speech" else []}
    streams = {"text": rng.integers(0, 1000, 8)}
    spans = [(0, 1, BY_NAME["text"].code, 0, 4, 0)]
    if kind == "text":
        spans.append((1, 2, BY_NAME["text"].code, 4, 4, 0))
    else:
        n, height = (GRID * GRID, GRID) if kind == "image256" else (SOUND_CODES, 0)
        streams[kind] = rng.integers(0, 8192, n)
        spans.append((1, 2, BY_NAME[kind].code, 0, n, height))
    record = Record.from_dict(fields | _fields(attack), key)
    return build_sample(key, record, streams, np.array(spans, SPAN))


def make_hostile(root: Path | str) -> str:
    """The corpus: two shards, one sample an attack, one reject an attack."""
    tokenizers = MediaTokenizers.demo()
    fingerprints = {
        "text": "text-demo-1",
        "image": tokenizers.image_tokenizer.fingerprint,
        "speech": tokenizers.speech_tokenizer.fingerprint,
    }
    rng = np.random.default_rng(3)
    samples = [hostile_sample(i, rng) for i in range(len(ATTACKS))]
    rejects = [Reject(key=a[:90], stage=a[:60], reason=a[:400], detail=a) for a in ATTACKS]
    storage, half = Storage(root), len(samples) // 2
    write_shard(storage, 0, samples[:half], fingerprints, rejects)
    write_shard(storage, 1, samples[half:], fingerprints, [])
    compact(storage)
    return str(root)

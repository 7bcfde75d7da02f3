"""Damaged input for the readers of records, samples, shards, pictures and sounds.

    python tests/fuzz/fuzzing.py --runs 10000            every target, so many inputs each
    python tests/fuzz/fuzzing.py --runs 10000 picture    one of them
    python tests/fuzz/fuzzing.py --replay FILE picture   one input again, with its traceback

Inputs are the saved ones of `inputs/TARGET/`, changed at random by a counter: run 17 of a target is
the same input each time, everywhere. A reader may refuse an input with a typed error; anything else
that it raises, or a broken promise about what it returns, is a finding. Findings are written to
`--findings` and belong, once they are mended, among the saved inputs.
"""

from __future__ import annotations

import argparse
import faulthandler
import random
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from isal.isal_zlib import crc32

from omni_diffusion.corpus.media import OURS, read_media_tar
from omni_diffusion.corpus.record import Record
from omni_diffusion.corpus.sample import STREAMS, decode_sample, encode_sample, span_fault
from omni_diffusion.corpus.shard import ShardReader, rescan
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.errors import OmniError
from omni_diffusion.tokenize.image.preprocess import PRESETS, load_picture, to_pixels
from omni_diffusion.tokenize.speech.audio import load_audio

INPUTS = Path(__file__).parent / "inputs"
HANGS_AFTER_S = 300
_MAX_BYTES = 1 << 18
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_WORDS = (b"<|image|>", b"<|audio|>", b"{", b"}", b"[", b"]", b'"', b"\\ud800", b"null", b"1e999")


def record(data: bytes) -> None:
    """What is read is written as the same record."""
    read = Record.from_json(data)
    again = Record.from_json(read.to_json())
    assert again == read
    assert again.to_json() == read.to_json()


def sample(data: bytes) -> None:
    """One member, with the checksum put right: damage must be found by more than it."""
    if len(data) > 8:
        data = data[:4] + crc32(data[8:]).to_bytes(4, "little") + data[8:]
    read = decode_sample("key", data)
    if span_fault(read) is None:
        for span in read.spans:
            rows = read.stream_length(STREAMS[span["stream"]].name)
            assert int(span["start"]) + int(span["length"]) <= rows
    assert read.supervised_length >= 0
    assert encode_sample(read) == data
    _ = read.record


def shard(data: bytes) -> None:
    """A tar of ours: every member is read or refused; and the same tar as one of others."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        (Path(folder) / "00000.tar").write_bytes(data)
        for _ in read_media_tar(Storage(folder), "00000.tar", OURS):
            pass
        refused: list[OmniError] = []
        rows = rescan(ShardReader(Path(folder) / "00000.tar"), 0, refused.append)
    assert all(row["offset"] >= 0 and row["offset"] + row["size"] <= len(data) for row in rows)


def picture(data: bytes) -> None:
    """Pixels that are asked for, between 0 and 1 or -1 and 1."""
    settings = PRESETS["default"]
    loaded = load_picture(data, settings)
    assert loaded.mode == "RGB"
    pixels = to_pixels(loaded, 64, settings, "fuzz")
    assert pixels.shape == (3, 64, 64)
    assert bool(pixels.isfinite().all())


def sound(data: bytes) -> None:
    """Finite samples, no longer than admitted."""
    loaded = load_audio(data, max_duration_s=60)
    assert 0 < loaded.duration_s <= 60


TARGETS: dict[str, Callable[[bytes], None]] = {
    "record": record,
    "sample": sample,
    "shard": shard,
    "picture": picture,
    "sound": sound,
}


def saved(target: str) -> list[bytes]:
    """Saved inputs in the order of their names."""
    return [path.read_bytes() for path in sorted((INPUTS / target).iterdir())]


def damaged(inputs: list[bytes], target: str, run: int) -> bytes:
    """The input of one run: a saved one with a few changes."""
    rng = random.Random(f"{target} {run}")
    data = bytearray(rng.choice(inputs))
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        rng.choice(_CHANGES)(data, rng, inputs)
    return bytes(data[:_MAX_BYTES])


def _flip(data: bytearray, rng: random.Random, _inputs: list[bytes]) -> None:
    if data:
        data[_place(data, rng)] ^= 1 << rng.randrange(8)


def _number(data: bytearray, rng: random.Random, _inputs: list[bytes]) -> None:
    size, order = rng.choice((1, 2, 4)), rng.choice(("little", "big"))
    value = (rng.choice(_NUMBERS) & ((1 << (8 * size)) - 1)).to_bytes(size, order)
    at = _place(data, rng)
    data[at : at + size] = value


def _cut(data: bytearray, rng: random.Random, _inputs: list[bytes]) -> None:
    at = _place(data, rng)
    del data[at : at + rng.choice((1, 4, 16, 512, len(data)))]


def _repeat(data: bytearray, rng: random.Random, _inputs: list[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = data[at : at + rng.choice((1, 4, 64, 512))] * rng.choice((1, 2, 8))


def _splice(data: bytearray, rng: random.Random, inputs: list[bytes]) -> None:
    other = rng.choice(inputs)
    at = rng.randrange(len(other) + 1)
    data[_place(data, rng) :] = other[at:]


def _word(data: bytearray, rng: random.Random, _inputs: list[bytes]) -> None:
    at = _place(data, rng)
    data[at:at] = rng.choice(_WORDS)


_CHANGES = (_flip, _flip, _number, _cut, _repeat, _splice, _word)


def _place(data: bytearray, rng: random.Random) -> int:
    """Anywhere, but headers more often than what follows them."""
    if not data:
        return 0
    return rng.randrange(min(len(data), rng.choice((64, 1024, len(data)))))


def attempt(target: str, data: bytes) -> BaseException | None:
    """What went wrong, or None: refusing an input with a typed error is right."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            TARGETS[target](data)
    except OmniError:
        return None
    except Exception as error:  # noqa: BLE001 - the point of it
        return error
    return None


def main() -> int:
    """The command line; the exit code says whether there were findings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="all by default")
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--findings", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--replay", type=Path)
    told = parser.parse_args()
    if told.replay:
        TARGETS[told.targets[0]](told.replay.read_bytes())
        return 0
    total = 0
    for target in told.targets or TARGETS:
        inputs, found = saved(target), 0
        for run in range(told.runs):
            data = damaged(inputs, target, run)
            faulthandler.dump_traceback_later(HANGS_AFTER_S, exit=True)
            if (error := attempt(target, data)) is not None:
                found += 1
                told.findings.mkdir(parents=True, exist_ok=True)
                path = told.findings / f"{target}-{run}"
                path.write_bytes(data)
                print(f"{path}: {type(error).__name__}: {str(error)[:200]}", flush=True)
            faulthandler.cancel_dump_traceback_later()
            if (run + 1) % 2000 == 0:
                print(f"{target}: {run + 1} of {told.runs}", file=sys.stderr, flush=True)
        print(f"{target}: {told.runs} runs, {found} findings", flush=True)
        total += found
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())

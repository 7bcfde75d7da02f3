"""Pictures and sounds go to codes and back from the command line, with the demo tokenizers."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
from PIL import Image
from test_corpus_verbs import omni

from corpora import FINGERPRINTS, make_sample
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.storage import Storage
from omni_diffusion.tokenize.codes import load_codes
from omni_diffusion.tokenize.media import MediaTokenizers


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """A picture and a second of two tones."""
    folder = tmp_path_factory.mktemp("media")
    levels = np.linspace(0, 255, 64 * 96 * 3).reshape(64, 96, 3).astype(np.uint8)
    Image.fromarray(levels).save(folder / "slope.png")
    time_s = np.arange(16_000) / 16_000
    tones = 0.2 * np.sin(880 * np.pi * time_s) + 0.1 * np.sin(3000 * np.pi * time_s)
    soundfile.write(folder / "tones.wav", tones, 16_000)
    return folder


def test_encode_and_decode_are_a_round_trip_of_files(files: Path, tmp_path: Path) -> None:
    sources = [str(files / "slope.png"), str(files / "tones.wav")]
    options = ["--demo", "--resolution", "64", "--no-crop", "-o", str(tmp_path)]
    told = omni("encode", *sources, *options, "--json").stdout.splitlines()
    picture, sound = map(json.loads, told)
    assert (picture["kind"], picture["grid"], picture["n"]) == ("image", [4, 6], 24)
    assert (sound["kind"], sound["grid"], sound["n"]) == ("speech", None, 13)
    codes = [str(tmp_path / "slope.png.npz"), str(tmp_path / "tones.wav.npz")]
    omni("decode", *codes, "--demo", "-o", str(tmp_path))  # pictures of 64 pixels, cut or not


@pytest.mark.parametrize(("level", "remark"), [(0.0, "silent"), (30.0, "clipped")])
def test_silent_and_clipped_sound_is_pointed_out(tmp_path: Path, level: float, remark: str) -> None:
    """They have codes, but are seldom what was meant."""
    wave = np.clip(level * np.sin(np.arange(8000) / 5), -1, 1)
    soundfile.write(tmp_path / "odd.wav", wave, 16_000)
    told = omni("encode", "--demo", str(tmp_path / "odd.wav"), "-o", str(tmp_path), "--json")
    assert remark in told.stderr
    assert [remark in said for said in json.loads(told.stdout)["remarks"]] == [True]


def test_codes_survive_their_file(files: Path, tmp_path: Path) -> None:
    made = MediaTokenizers.demo().encode_file(files / "tones.wav")
    made.save(tmp_path / "a.npz")
    again = load_codes(tmp_path / "a.npz")
    assert again.codes.tolist() == made.codes.tolist()
    assert (again.kind, again.height, again.fingerprint, again.source) == (
        made.kind,
        made.height,
        made.fingerprint,
        made.source,
    )


def test_codes_of_another_tokenizer_are_refused_with_both_fingerprints(
    files: Path, tmp_path: Path
) -> None:
    omni("encode", "--demo", str(files / "tones.wav"), "-o", str(tmp_path))
    path = str(tmp_path / "tones.wav.npz")
    said = omni("decode", path, "--speech-decoder", "/nowhere", code=1).stderr
    assert "made by glm4voice-demo-" in said
    assert "zai-org/glm-4-voice-tokenizer does not understand" in said


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04junk", b"\x93NUMPY"])
def test_a_file_that_holds_no_codes_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(content)
    said = omni("decode", "--demo", str(path), code=1).stderr
    assert said.startswith(f"error: {path}: cannot be read as codes")


def test_without_network_and_weights_the_way_out_is_told(files: Path, tmp_path: Path) -> None:
    said = omni("encode", str(files / "slope.png"), "-o", str(tmp_path), code=1).stderr
    assert "hf download showlab/magvitv2 --local-dir magvitv2" in said


def test_show_writes_what_a_sample_looks_and_sounds_like(tmp_path: Path) -> None:
    tokenizers = MediaTokenizers.demo()
    fingerprints = FINGERPRINTS | {
        "image": tokenizers.image_tokenizer.fingerprint,
        "speech": tokenizers.speech_tokenizer.fingerprint,
    }
    write_shard(Storage(tmp_path / "c"), 0, [make_sample("s0")], fingerprints)
    compact(Storage(tmp_path / "c"))
    out = tmp_path / "out"
    omni("show", str(tmp_path / "c"), "s0", "-o", str(out))
    assert sorted(path.name for path in out.iterdir()) == [
        "message0-user.txt",
        "message1-assistant.txt",
        "record.json",
        "span0-user-speech.wav",
        "span1-user-image256.png",
    ]
    assert Image.open(out / "span1-user-image256.png").size == (48, 32)
    sound, rate = soundfile.read(out / "span0-user-speech.wav")
    assert len(sound) == pytest.approx(9 / 12.5 * rate, rel=0.1)


def test_show_refuses_a_corpus_of_other_tokenizers(tmp_path: Path) -> None:
    fingerprints = {"image": "magvit2-demo-0000000000000000", "speech": "glm4voice-demo-0"}
    write_shard(Storage(tmp_path / "c"), 0, [make_sample("s0")], fingerprints)
    compact(Storage(tmp_path / "c"))
    said = omni("show", str(tmp_path / "c"), "s0", "-o", str(tmp_path / "out"), code=1).stderr
    assert "made by magvit2-demo-0000000000000000" in said

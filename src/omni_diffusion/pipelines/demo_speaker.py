"""A process that speaks some sentences with SVOX Pico and ends.

What Pico makes of a sentence depends on what the same process said before, so the same sounds come
out again only if a fresh process says the same sentences in the same order.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence

from omni_diffusion.errors import SourceError

SAMPLE_RATE_HZ = 16_000
VOICES = ("en-US", "en-GB")


def speak(sentences: Sequence[tuple[str, str]]) -> list[bytes]:
    """Sentences as sounds, made by a process of their own.

    Args:
        sentences: voice (one of `VOICES`) and text of each.

    Returns:
        16-bit little-endian mono samples of each, at `SAMPLE_RATE_HZ`.

    Raises:
        SourceError: the process failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(sentences).encode(),
        capture_output=True,
        check=False,
    )
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise SourceError(f"the speaking process ended with exit code {done.returncode}: {last}")
    sounds, data = [], done.stdout
    while data:
        length = int.from_bytes(data[:4], "little")
        sounds.append(data[4 : 4 + length])
        data = data[4 + length :]
    return sounds


def main() -> None:
    """Read `[[voice, text], ...]` from standard input; write length and samples of each."""
    from py_nanotts import NanoTTS

    speaker = NanoTTS()
    for voice, text in json.load(sys.stdin.buffer):
        sound = bytes(speaker.speak(text, voice=voice, speed=1.0, pitch=1.0, volume=1.0))
        sys.stdout.buffer.write(len(sound).to_bytes(4, "little") + sound)


if __name__ == "__main__":
    main()

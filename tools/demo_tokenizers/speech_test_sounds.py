"""Speak the held-out minutes that the tests of the demo speech tokenizer encode.

    pip install py-nanotts==0.1.1 emoji==2.16.0 easy-vqa==1.0
    python -m demo_tokenizers.speech_test_sounds OUT_DIR           (from the folder tools/)

writes `held-out.ogg`, seven stretches of 30 s one after the other, as Opus to keep it small. They
begin the same run of speech that the training script measures on.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile

from demo_tokenizers.speech import PARAGRAPH_S
from demo_tokenizers.speech_corpus import SAMPLE_RATE_HZ, paragraphs

PARAGRAPHS, SEED = 7, 1
_COMPRESSION = 0.98


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    path = parser.parse_args().out_dir / "held-out.ogg"
    spoken = np.concatenate(paragraphs(PARAGRAPHS, PARAGRAPH_S, held_out=True, seed=SEED))
    with soundfile.SoundFile(
        path, "w", SAMPLE_RATE_HZ, 1, "OPUS", format="OGG", compression_level=_COMPRESSION
    ) as file:
        # All at once overflows the stack of libsndfile 1.2.
        for second in np.split(spoken, len(spoken) // SAMPLE_RATE_HZ):
            file.write(second)
    print(f"{path}: {path.stat().st_size:,} bytes, {len(spoken) / SAMPLE_RATE_HZ:g} s")


if __name__ == "__main__":
    main()

"""Speak example sentences and pass them through the demo speech tokenizer, before and after.

    pip install py-nanotts
    python -m demo_tokenizers.speech_examples OUT_DIR              (from the folder tools/)

writes `speech-N-before.flac` and `speech-N-after.flac` and prints how alike their features are.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
import torch

from demo_tokenizers.speech import mel_correlation
from demo_tokenizers.speech_corpus import SAMPLE_RATE_HZ
from omni_diffusion.tokenize.speech.griffin_lim import SAMPLES_PER_CODE
from omni_diffusion.tokenize.speech.mel import log_mel
from omni_diffusion.tokenize.speech.tokenizer import SpeechTokenizer

EXAMPLES = (
    ("en-US", 1.0, 1.0, "What animal is sleeping under the big tree?"),
    ("en-GB", 0.95, 0.9, "The small boat has a white sail, and the water is calm."),
    ("en-US", 1.1, 1.2, "Generate an image of a yellow lemon on a wooden table."),
)


def main() -> None:
    """Write the pairs."""
    from py_nanotts import NanoTTS

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out_dir", type=Path)
    out_dir = parser.parse_args().out_dir
    out_dir.mkdir(parents=True, exist_ok=True)
    tokenizer, engine = SpeechTokenizer.from_pretrained("demo"), NanoTTS()
    for number, (voice, speed, pitch, text) in enumerate(EXAMPLES, start=1):
        pcm = engine.speak(text, voice=voice, speed=speed, pitch=pitch, volume=1.0)
        before = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768.0
        codes = tokenizer.encode([(before, SAMPLE_RATE_HZ)])[0]
        after = tokenizer.decode(codes)
        whole = after[: len(codes) * SAMPLES_PER_CODE]
        alike = mel_correlation(before, log_mel(whole))
        for name, samples in (("before", before), ("after", after.numpy())):
            path = out_dir / f"speech-{number}-{name}.flac"
            soundfile.write(path, np.clip(samples, -1.0, 1.0), SAMPLE_RATE_HZ, subtype="PCM_16")
        print(f"{number}: {len(codes)} codes, mel correlation of the sound {alike:.3f}: {text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()

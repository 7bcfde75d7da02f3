"""What is written of an answer.

KEY.png           the picture
KEY.wav           the sound, 16 bits
KEY.txt           the text
KEY.json          what was asked, settings, seed, steps, time
KEY.history.npz   ids after every step: `ids` int32 [steps, L], `answer_start`
KEY.trace.gif     a picture coming about        with a trace
KEY.trace.png     a strip of it; for other answers a map, a row a step, a cell a token
KEY.trace.txt     a text coming about
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import soundfile

from omni_diffusion.errors import MediaError
from omni_diffusion.generation import trace
from omni_diffusion.generation.kit import Kit, Sound
from omni_diffusion.generation.studio import Reply

_FRAMES, _FRAME_MS, _LAST_FRAME_MS = 12, 250, 2000


def write_reply(
    reply: Reply,
    folder: Path,
    kit: Kit,
    *,
    traced: bool = False,
    about: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write what an answer holds; earlier files of the same key are replaced.

    Args:
        reply: with its history, if it is to be written.
        folder: exists.
        kit: the tokenizers.
        traced: draw how it came about; needs the history.
        about: further facts for `KEY.json`.

    Returns:
        The files, what a person looks at first.

    Raises:
        MediaError: the sound is not finite.
    """
    key, written = reply.prepared.ask.key, []
    stem = folder / key

    def target(suffix: str) -> Path:
        written.append(stem.with_name(key + suffix))
        return written[-1]

    if reply.picture is not None:
        reply.picture.save(target(".png"))
    if reply.sound is not None:
        write_wav(reply.sound, target(".wav"))
    if reply.parts.text:
        target(".txt").write_text(reply.parts.text + "\n")
    if traced:
        _write_trace(reply, kit, target)
    if reply.answer.history is not None:
        ids = reply.answer.history.numpy().astype(np.int32)
        np.savez_compressed(
            target(".history.npz"), ids=ids, answer_start=np.int64(reply.prepared.prompt)
        )
    facts = reply.facts() | {"files": [path.name for path in written]} | dict(about or {})
    target(".json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return written


def write_wav(sound: Sound, path: Path | IO[bytes]) -> None:
    """Write 16-bit samples; a sound that is too loud is turned down as a whole.

    Raises:
        MediaError: it is not finite.
    """
    if not np.isfinite(sound.samples.numpy()).all():
        raise MediaError(path, "the decoded sound is not finite")
    peak = float(sound.samples.abs().max()) if len(sound.samples) else 0.0
    samples = (sound.samples / max(1.0, peak)).numpy()
    soundfile.write(path, samples, sound.sample_rate_hz, "PCM_16", format="WAV")


def _write_trace(reply: Reply, kit: Kit, target: Any) -> None:
    if reply.parts.picture is not None:
        frames = trace.picture_frames(reply, kit, _FRAMES)
        frames[0].save(
            target(".trace.gif"),
            save_all=True,
            append_images=frames[1:],
            duration=[_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS],
            loop=0,
        )
        trace.strip(frames).save(target(".trace.png"))
        return
    trace.step_map(reply, kit.template.vocabulary).save(target(".trace.png"))
    if reply.parts.text and reply.parts.speech is None:
        lines = trace.text_steps(reply, kit, 4 * _FRAMES)
        target(".trace.txt").write_text("\n".join(lines) + "\n")

"""What was synthesized and heard before: nothing is said twice, whatever threshold changes.

    ROOT/speech/DIGEST.seg         finished sound and its measures, by (text, engine, voice, rate)
    ROOT/transcripts/DIGEST.seg    what a recogniser heard, by (sound, recogniser)

Entries are kept in segments (`segments`), because an object for every utterance would cost an
object store a request each, on every run.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import xxhash

from omni_diffusion.errors import MediaError
from omni_diffusion.sdvi.engines.engine import Engine, Speech, SpeechError, Utterance
from omni_diffusion.sdvi.recognisers import Recogniser
from omni_diffusion.sdvi.segments import SegmentStore
from omni_diffusion.sdvi.sound import CLIP_VERSION, Clip, make_clip


class SpeechCache:
    """An engine and a recogniser that remember; without a root, until the next commit.

    Args:
        root: folder or URL, shared by any number of processes; or None.

    Attributes:
        synthesized: utterances that an engine had to speak.
        transcribed: sounds that a recogniser had to hear.

    Raises:
        StorageError: the store refused.
    """

    def __init__(self, root: str | os.PathLike[str] | None) -> None:
        prefix = None if root is None else os.fspath(root).rstrip("/")
        self._speech = SegmentStore(prefix and f"{prefix}/speech")
        self._transcripts = SegmentStore(prefix and f"{prefix}/transcripts")
        self.synthesized = 0
        self.transcribed = 0

    def speak(self, engine: Engine, utterances: Sequence[Utterance]) -> list[Clip | SpeechError]:
        """The finished sound of each utterance, or why there is none; errors are not remembered.

        Raises:
            StorageError: the store refused.
        """
        made_by = f"{engine.fingerprint}/{CLIP_VERSION}"
        keys = [_key(made_by, u.text, u.voice, f"{u.rate:.2f}") for u in utterances]
        found = self._speech.lookup(keys)
        # The same words in the same voice are spoken once, also within one call.
        missing = {k: u for k, u, f in zip(keys, utterances, found, strict=True) if f is None}
        spoken = engine.synthesize_many(list(missing.values()))
        made: dict[bytes, Clip | SpeechError] = {}
        for key, speech in zip(missing, spoken, strict=True):
            clip = _clip(engine, speech)
            if isinstance(clip, Clip):
                self._speech.add(key, clip.to_bytes())
            made[key] = clip
        self.synthesized += len(missing)
        return [
            Clip.from_bytes(f) if f is not None else made[k]
            for k, f in zip(keys, found, strict=True)
        ]

    def hear(self, recogniser: Recogniser, clips: Sequence[Clip]) -> list[str]:
        """What is said in each sound.

        Raises:
            StorageError: the store refused.
        """
        keys = [_key(recogniser.fingerprint, clip.flac) for clip in clips]
        found = self._transcripts.lookup(keys)
        missing = {k: c for k, c, f in zip(keys, clips, found, strict=True) if f is None}
        heard = recogniser.transcribe_many([clip.decode() for clip in missing.values()])
        made = dict(zip(missing, heard, strict=True))
        for key, text in made.items():
            self._transcripts.add(key, text.encode())
        self.transcribed += len(missing)
        return [f.decode() if f is not None else made[k] for k, f in zip(keys, found, strict=True)]

    def commit(self) -> None:
        """Publish what is new, for other processes and later runs.

        Raises:
            StorageError: the store refused; what is new waits for the next commit.
        """
        self._speech.commit()
        self._transcripts.commit()


def _clip(engine: Engine, speech: Speech | SpeechError) -> Clip | SpeechError:
    if isinstance(speech, SpeechError):
        return speech
    try:
        return make_clip(speech)
    except MediaError as error:
        return SpeechError(engine.name, "no sound", str(error))


def _key(*parts: str | bytes) -> bytes:
    """16 bytes for any parts; their lengths keep ("ab", "c") and ("a", "bc") apart."""
    digest = xxhash.xxh3_128()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.digest()

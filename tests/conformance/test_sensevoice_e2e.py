"""Speech reaches the language model as upstream's does: front end, encoder, adapter, its positions.

Each part is compared with upstream elsewhere (`test_sensevoice.py`, `test_dream.py`); here they are
one model, and a recording in a conversation must have the vectors that upstream inserts.
"""

import numpy as np
import pytest
import soundfile
import torch

from dreams import conformance_dream
from omni_diffusion.backbone.attention import Segments
from omni_diffusion.backbone.dream import Dream, Inserts
from omni_diffusion.tokenize.speech.sensevoice import SpeechFeatures
from vectors import vector_set

pytestmark = pytest.mark.usefixtures("one_thread")
FOLDER = vector_set("sensevoice")
EXPECTED = dict(np.load(FOLDER / "expected.npz"))
CLIPS = sorted(path.stem for path in FOLDER.glob("*.wav"))
TOLERANCE = 1e-3


@pytest.fixture(scope="module")
def hearing_dream() -> tuple[Dream, SpeechFeatures]:
    """The vectors' language model with the vectors' encoder and projector in it."""
    speech, language = SpeechFeatures.from_pretrained(FOLDER), conformance_dream()
    model = Dream(language.config, speech.encoder.config).eval()
    parts = {
        "": language,
        "model.audio_model.model.": speech.encoder,
        "model.audio_projection.": speech.projector,
    }
    weights = {p + k: t for p, part in parts.items() for k, t in part.state_dict().items()}
    model.load_state_dict(weights)
    return model, speech


@torch.no_grad()
def test_recordings_in_a_packed_row_are_heard_as_upstream_encodes_them(hearing_dream):
    """One row with every clip in a sample of its own gives the logits of upstream's vectors."""
    model, speech = hearing_dream
    features = []
    for clip in CLIPS:
        samples, _ = soundfile.read(FOLDER / f"{clip}.wav", dtype="float32")
        features.append(speech.features(torch.from_numpy(samples)))
    heard = model.embed_speech(features)
    for clip, vectors in zip(CLIPS, heard, strict=True):
        np.testing.assert_allclose(vectors, EXPECTED[f"{clip}.projected"], rtol=0, atol=TOLERANCE)

    before, after = torch.arange(7), torch.arange(100, 112)
    lengths = [len(before) + len(v) + len(after) for v in heard]
    ids = torch.cat([torch.cat((before, torch.zeros(len(v)).long(), after)) for v in heard])
    segments = Segments(lengths)
    spots = [
        start + len(before) + torch.arange(len(vectors))
        for start, vectors in zip(segments.starts.tolist(), heard, strict=True)
    ]
    together = model(ids, segments, Inserts(torch.cat(spots), torch.cat(heard)))
    for clip, hidden in zip(CLIPS, together.split(lengths), strict=True):
        published = torch.from_numpy(EXPECTED[f"{clip}.projected"])
        single = torch.cat((before, torch.zeros(len(published)).long(), after))
        inserts = Inserts(len(before) + torch.arange(len(published)), published)
        alone = model(single, Segments([len(single)]), inserts)
        np.testing.assert_allclose(model.logits(hidden), model.logits(alone), rtol=0, atol=2e-3)

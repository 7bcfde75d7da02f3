"""The preset `published-code` hides the tokens that the published code hid, given its draws."""

import json

import numpy as np
import pytest

from omni_diffusion.training.masking import published_masked, published_threshold
from vectors import vector_set

FOLDER = vector_set("chat_sequence")
SEQUENCES = json.loads((FOLDER / "sequences.json").read_text("utf-8"))["sequences"]
RECORDED = [entry for entry in SEQUENCES if "masking" in entry]
LAYOUT = json.loads((FOLDER / "id_layout.json").read_text("utf-8"))["generation_constants"]


@pytest.mark.parametrize("entry", RECORDED, ids=lambda entry: entry["task"])
def test_recorded_draws_hide_the_recorded_tokens(entry) -> None:
    labels, recorded = np.array(entry["labels_with_tail"]), entry["masking"]
    supervised = np.flatnonzero(labels != -100)
    span = np.s_[supervised[0] : supervised[-1] + 1]
    t, u = (np.array(recorded["draws"][name], np.float32).reshape(-1) for name in ("t", "u"))
    tail = labels[span] == LAYOUT["eos_pad"]
    masked = np.zeros(len(labels), bool)
    masked[span] = published_masked(u, published_threshold(t), tail, 0.6)
    assert (
        masked[labels != -100].tolist()
        == np.array(recorded["masked"], bool)[labels != -100].tolist()
    )
    masked &= labels != -100
    ids = np.where(masked, LAYOUT["mask"], entry["input_ids_with_tail"])
    assert ids.tolist() == recorded["input_ids"]
    assert np.where(masked, labels, -100).tolist() == recorded["labels"]

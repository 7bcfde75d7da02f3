"""Who speaks depends on the record alone, and held-out voices stay held out."""

from __future__ import annotations

from collections import Counter

import pytest

from omni_diffusion.errors import RecipeError
from omni_diffusion.sdvi.engines import Voice
from omni_diffusion.sdvi.voices import Cast, VoicesRecipe, balance

VOICES = tuple(Voice(f"v{i}", "female" if i % 2 else "male", "en-US") for i in range(12))
KEYS = [f"record-{i}" for i in range(3_000)]


def test_users_have_many_voices_and_the_assistant_one() -> None:
    cast = Cast(VOICES, VoicesRecipe())
    users = Counter(cast.user(key)[0] for key in KEYS)
    assert set(users) == set(cast.users)
    assert max(users.values()) < 1.3 * min(users.values())
    assert {cast.reply(key, 0)[0] for key in KEYS} == {"v0"}
    assert "v0" not in users


def test_no_training_voice_is_heard_in_evaluation() -> None:
    train = Cast(VOICES, VoicesRecipe())
    evaluation = Cast(VOICES, VoicesRecipe(split="evaluation"))
    assert len(train.held_out) == 2
    assert set(evaluation.users) == set(train.held_out)
    assert not set(evaluation.users) & set(train.users)


def test_rates_fill_the_range_in_whole_percent() -> None:
    cast = Cast(VOICES, VoicesRecipe(rate_spread=0.1))
    rates = Counter(cast.user(key)[1] for key in KEYS)
    assert set(rates) == {percent / 100 for percent in range(90, 111)}
    assert {Cast(VOICES, VoicesRecipe(rate_spread=0)).user(key)[1] for key in KEYS} == {1.0}


def test_each_attempt_has_another_voice_and_the_assistant_another_rate() -> None:
    cast = Cast(VOICES, VoicesRecipe())
    for key in KEYS[:50]:
        tried = [cast.user(key, attempt)[0] for attempt in range(len(cast.users))]
        assert sorted(tried) == sorted(cast.users)
        assert len({cast.reply(key, 0, attempt) for attempt in range(4)}) > 1


def test_a_new_voice_changes_only_the_records_that_it_speaks() -> None:
    before = Cast(VOICES, VoicesRecipe(held_out=("v3",)))
    after = Cast((*VOICES, Voice("new", "male", "en-GB")), VoicesRecipe(held_out=("v3",)))
    changed = [key for key in KEYS if before.user(key) != after.user(key)]
    assert 0 < len(changed) < len(KEYS) / 6
    assert {after.user(key)[0] for key in changed} == {"new"}


def test_the_report_names_every_voice() -> None:
    report = balance(VOICES, ["v1", "v1", "v2"])
    assert report["voice"]["v1"] == 2
    assert report["voice"]["v7"] == 0
    assert report["gender"] == {"female": 2, "male": 1}


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (VoicesRecipe(assistant="nobody"), "nobody"),
        (VoicesRecipe(held_out=("v1", "v99")), "v99"),
        (VoicesRecipe(held_out=tuple(v.name for v in VOICES)), "train"),
        (VoicesRecipe(held_out=(), split="evaluation"), "evaluation"),
    ],
)
def test_a_cast_that_cannot_play_is_refused(recipe: VoicesRecipe, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Cast(VOICES, recipe)

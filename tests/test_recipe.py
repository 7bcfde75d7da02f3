"""A recipe says what is wrong with it before anything runs, and comes back exactly as it was."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from omni_diffusion.errors import RecipeError
from omni_diffusion.recipe import RECIPE, Recipe, load_recipe


class Optimizer(Recipe):
    learning_rate: float = 1e-3
    warmup_steps: int | None = None
    name: str = "adamw"


class Kokoro(Recipe):
    engine: Literal["kokoro"]
    voice: str = "af_heart"


class Edge(Recipe):
    engine: Literal["edge"]
    rate_percent: int = 0


class Job(Recipe):
    """One of everything that a recipe may hold."""

    steps: int = 10
    fused: bool = False
    title: str = ""
    optimizer: Optimizer = Optimizer()
    second: Optimizer | None = None
    stages: tuple[Optimizer, ...] = ()
    speech: Annotated[Kokoro | Edge, Field(discriminator="engine")] = Kokoro(engine="kokoro")
    fallback: Kokoro | Edge | None = None
    voices: Mapping[str, Optimizer] = {}
    mixture: Mapping[str, float] = {}
    sizes: tuple[int, ...] = (256, 512)


class Strict(Recipe):
    """Has a field that must be given."""

    source: str
    limit: int = 1


@pytest.fixture
def load(tmp_path: Path):
    """Loads a recipe from its text."""

    def load_text(text: str | bytes, *overrides: str, model: Any = Job) -> Any:
        data = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "job.yaml").write_bytes(data)
        return load_recipe(tmp_path / "job.yaml", model, overrides)

    return load_text


@pytest.fixture
def error(load, tmp_path: Path):
    """The error of a recipe, one line a fault, without the file's folder."""

    def error_of(text: str | bytes, *overrides: str, model: Any = Job) -> str:
        with pytest.raises(RecipeError) as caught:
            load(text, *overrides, model=model)
        return str(caught.value).replace(f"{tmp_path}/", "")

    return error_of


# --- what a misspelt recipe says --------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "line", "key", "hint"),
    [
        ("stpes: 3", 1, "stpes", "did you mean 'steps'?"),
        ("steps: 3\noptimizer:\n  nmae: x", 3, "optimizer.nmae", "did you mean 'name'?"),
        ("second: {nmae: x}", 1, "second.nmae", "did you mean 'name'?"),
        ("stages:\n- name: a\n- name: b\n  nmae: x", 4, "stages.1.nmae", "did you mean 'name'?"),
        ("voices:\n  anna:\n    nmae: x", 3, "voices.anna.nmae", "did you mean 'name'?"),
        ("voices:\n  name:\n    nmae: x", 3, "voices.name.nmae", "did you mean 'name'?"),
        (
            "speech:\n  engine: edge\n  rate: 1",
            3,
            "speech.edge.rate",
            "did you mean 'rate_percent'?",
        ),
        (
            "speech:\n  engine: edge\n  voice: x",
            3,
            "speech.edge.voice",
            "valid keys: engine, rate_p",
        ),
        (
            "fallback:\n  engine: edge\n  rate: 1",
            3,
            "fallback.Edge.rate",
            "did you mean 'rate_perc",
        ),
        ("xyzzy: 1", 1, "xyzzy", "valid keys: fallback, fused, mixture, optimizer, second, s"),
    ],
)
def test_an_unknown_key_is_named_with_its_line_and_the_nearest_valid_one(
    error, text, line, key, hint
) -> None:
    expected = f"job.yaml:{line}: {key}: unknown key; {hint}"
    assert any(told.startswith(expected) for told in error(text).splitlines()), error(text)


@pytest.mark.parametrize(
    ("text", "where", "got"),
    [
        ("steps: '3'", "job.yaml:1: steps: ", "'3'"),
        ("steps: 3.0", "job.yaml:1: steps: ", "3.0"),
        ("steps: true", "job.yaml:1: steps: ", "True"),
        ("\nfused: 1", "job.yaml:2: fused: ", "1"),
        ("fused: 'yes'", "job.yaml:1: fused: ", "'yes'"),
        ("title: 3", "job.yaml:1: title: ", "3"),
        ("title: no", "job.yaml:1: title: ", "False"),
        ("title:", "job.yaml:1: title: ", "None"),
        ("optimizer: {learning_rate: '1e-4'}", "job.yaml:1: optimizer.learning_rate: ", "'1e-4'"),
        ("optimizer: {learning_rate: true}", "job.yaml:1: optimizer.learning_rate: ", "True"),
        ("mixture:\n  a: 1\n  b: .nan", "job.yaml:3: mixture.b: ", "nan"),
        ("mixture:\n  a: -.inf", "job.yaml:2: mixture.a: ", "-inf"),
        ("optimizer: {learning_rate: 1e999}", "job.yaml:1: optimizer.learning_rate: ", "inf"),
        ("sizes:\n- 1\n- 2\n- x", "job.yaml:4: sizes.2: ", "'x'"),
        ("sizes: 3", "job.yaml:1: sizes: ", "3"),
        ("stages: {}", "job.yaml:1: stages: ", "{}"),
        ("optimizer: []", "job.yaml:1: optimizer: ", "[]"),
        ("speech: {engine: pico}", "job.yaml:1: speech: ", "{'engine': 'pico'}"),
    ],
)
def test_a_wrong_type_is_never_converted_in_silence(error, text, where, got) -> None:
    message = error(text)
    assert message.startswith(where) and message.endswith(f", got {got}")


def test_a_missing_field_is_named(error, load) -> None:
    assert error("limit: 3", model=Strict) == "job.yaml: source: is missing"
    assert error("", model=Strict) == "job.yaml: source: is missing"
    assert load("source: x", model=Strict) == Strict(source="x")
    assert error("speech:\n  voice: x").startswith("job.yaml:1: speech: ")


def test_all_faults_are_told_at_once(error) -> None:
    lines = error("steps: x\nsecond: {name: 1}\nstpes: 1").splitlines()
    assert [line.split(": ")[0] for line in lines] == ["job.yaml:1", "job.yaml:2", "job.yaml:3"]


def test_a_long_value_does_not_flood_the_message(error) -> None:
    assert len(error(f"steps: {'x' * 10_000}")) < 200


# --- YAML's traps ------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["1e-4", "1E-4", "1.e-4", "1.0e-4", "+1e-4", ".1e-3", "0.0001"])
def test_numbers_may_be_written_as_people_write_them(load, text: str) -> None:
    assert load(f"optimizer: {{learning_rate: {text}}}").optimizer.learning_rate == 1e-4


@pytest.mark.parametrize("text", ["1e5abc", "1e", "e5", "1e-4 epochs", "3.10.2", "12:30:ab", "~x"])
def test_text_that_begins_like_a_number_is_text(load, text: str) -> None:
    assert load(f"title: {text}").title == text


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("steps: 1\nsteps: 2", 2, "key 'steps' stands twice"),
        ("optimizer:\n  name: a\n  name: b", 3, "key 'name' stands twice"),
        ("voices: {a: {}, 'a': {}}", 1, "key 'a' stands twice"),
        ("mixture:\n  1: 0.5", 2, "key 1 is not text"),
        ("mixture:\n  yes: 0.5", 2, "key yes is not text"),
        ("? [a, b]\n: 3", 1, "is not text"),
        ("? {a: b}\n: 3", 1, "is not text"),
        ("title: 2026-01-31", 1, "'2026-01-31' cannot be a value"),
        ("title: 2026-13-45", 1, "'2026-13-45' cannot be a value"),
        ("title: !!binary aGk=", 1, "'aGk=' cannot be a value"),
        ("sizes: !!set {a, b}", 1, "cannot be a value"),
        ("fused: !!bool x", 1, "'x' cannot be a value"),
        ("steps: !!int x", 1, "'x' cannot be a value"),
        ("steps: !!int ''", 1, "'' cannot be a value"),
        (f"steps: {'1' * 5000}", 1, "cannot be a value"),
        ("title: '\\ud800'\ntitle2: \"\\ud800\"", 2, "cannot be a value"),
        ("title: !!python/object/apply:os.getcwd []", 1, "cannot be a value"),
        ("title: =", 1, "'=' cannot be a value"),
        ("title: [1", 1, "expected"),
        ("a: 1\n b: 2", 2, "mapping values are not allowed"),
        ("title: *nobody", 1, "undefined alias"),
        ("title: &a [*a]", 1, "recursive"),
        ("steps: 1\n---\nsteps: 2", 2, "another document"),
    ],
)
def test_yaml_that_is_not_a_recipe_is_refused_with_its_line(error, text, line, reason) -> None:
    message = error(text)
    assert message.startswith(f"job.yaml: not valid YAML in line {line}: ") and reason in message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff\xfe", "not UTF-8 text"),
        ("title: ü".encode("latin-1"), "not UTF-8 text"),
        (b"title: \x00", "not valid YAML"),
        (b"[1, 2]", "must hold keys and values, holds list"),
        (b"just text", "must hold keys and values, holds str"),
        (b"#" * (1 << 20) + b"#", "larger than 1 MiB"),
        (b"sizes: " + b"[" * 2000, "nested too deeply"),
    ],
)
def test_a_file_that_is_no_recipe_at_all_is_refused(error, data: bytes, reason: str) -> None:
    assert reason in error(data)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(RecipeError, match=f"^{path}: cannot be read: "):
            load_recipe(path, Job)


@pytest.mark.parametrize("empty", ["", "# only a comment\n", "---\n", "{}"])
def test_an_empty_recipe_is_the_defaults(load, empty: str) -> None:
    assert load(empty) == Job()


def test_aliases_are_copies_and_merged_keys_know_their_lines(load, error) -> None:
    text = "optimizer: &o {name: a}\nsecond:\n  <<: *o\n  warmup_steps: 3\nstages: [*o, *o]"
    job = load(text, "stages.0.name=b", "optimizer.learning_rate=2")
    assert [job.optimizer.name, job.second.name] == ["a", "a"]
    assert [stage.name for stage in job.stages] == ["b", "a"]
    assert job.stages[1].learning_rate == job.second.learning_rate == 1e-3
    faulty = text.replace("warmup_steps: 3", "name: 3")
    assert error(faulty).startswith("job.yaml:4: second.name: ")


@pytest.mark.parametrize(
    "bomb",
    [
        "- &a0 [" + "x," * 9 + "]\n"
        + "".join(f"- &a{i} [{f'*a{i - 1},' * 9}]\n" for i in range(1, 12)),
        "- &a0 {k: v}\n"
        + "".join(f"- &a{i} {{<<: [{f'*a{i - 1},' * 9}]}}\n" for i in range(1, 12)),
        "- &a0 []\n" + "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(1, 2000)),
        "- &a0 []\n" + "".join(f"- &a{i} [*a{i - 1}]\n" for i in range(1, 250)),
    ],
)  # fmt: skip
def test_aliases_of_aliases_cannot_blow_up(error, bomb: str) -> None:
    """Some hundred bytes of YAML can say billions of values."""
    message = error("stages:\n" + bomb)
    assert "holds more than 100000 values" in message or "nested too deeply" in message


# --- overrides ---------------------------------------------------------------------------------


def test_overrides_are_typed_nested_and_applied_in_order(load) -> None:
    job = load(
        "steps: 1\nsecond: null\nstages: [{name: a}, {name: b}]",
        "steps=2",
        "optimizer.learning_rate=5e-5",
        "second.warmup_steps=7",
        "stages.1.name=c",
        "voices.anna.name=x=y",
        "sizes=[1, 2]",
        "title='3'",
        "mixture={a: 0.25}",
        "fused=true",
        "steps=3",
    )
    assert job == Job(
        steps=3,
        fused=True,
        title="3",
        optimizer=Optimizer(learning_rate=5e-5),
        second=Optimizer(warmup_steps=7),
        stages=(Optimizer(name="a"), Optimizer(name="c")),
        voices={"anna": Optimizer(name="x=y")},
        mixture={"a": 0.25},
        sizes=(1, 2),
    )
    assert load("second: {name: x}", "second=null").second is None
    assert load("second: {name: x}", "second=").second is None


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("steps", "expected KEY=VALUE"),
        ("=3", "expected KEY=VALUE"),
        ("optimizer..name=3", "expected KEY=VALUE"),
        ("optimizer.=3", "expected KEY=VALUE"),
        ("steps=[1", "not valid YAML"),
        ("steps=2026-01-31", "cannot be a value"),
        ("stages=&a [*a]", "recursive"),
        ("steps.x=3", "steps holds a plain value"),
        ("stages.2.name=x", "stages has 1 entries"),
        ("stages.-1.name=x", "stages has 1 entries"),
        ("stages.name=x", "stages has 1 entries"),
        ("stages.²=x", "stages has 1 entries"),
    ],
)
def test_a_bad_override_is_quoted(error, override: str, reason: str) -> None:
    message = error("steps: 1\nstages: [{}]", override)
    assert f"override {override!r}: " in message and reason in message


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps='3'", "steps: input should be a valid integer, got '3'"),
        ("stpes=3", "stpes: unknown key; did you mean 'steps'?"),
        ("second.nam=3", "second.nam: unknown key; did you mean 'name'?"),
        ("stages.0.name=3", "stages.0.name: input should be a valid string, got 3"),
    ],
)
def test_a_fault_of_an_override_is_not_blamed_on_a_line(error, override, expected) -> None:
    message = error("steps: 1\nstages: [{name: a}]", "steps=5", override)
    assert message == f"job.yaml, override {override!r}: {expected}"


# --- the effective recipe ----------------------------------------------------------------------

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | st.sampled_from(
    ["1e-4", "1e5", ".1e3", "yes", "null", "~", "", "2026-01-31", "1:30", "0x1", "=", "<<", "- a"]
)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
OPTIMIZERS = st.builds(
    Optimizer, learning_rate=FLOATS, warmup_steps=st.none() | st.integers(), name=TEXTS
)
ENGINES = st.builds(Kokoro, engine=st.just("kokoro"), voice=TEXTS) | st.builds(
    Edge, engine=st.just("edge"), rate_percent=st.integers()
)
JOBS = st.builds(
    Job,
    steps=st.integers(),
    fused=st.booleans(),
    title=TEXTS,
    optimizer=OPTIMIZERS,
    second=st.none() | OPTIMIZERS,
    stages=st.lists(OPTIMIZERS, max_size=3).map(tuple),
    speech=ENGINES,
    fallback=st.none() | ENGINES,
    voices=st.dictionaries(TEXTS, OPTIMIZERS, max_size=2),
    mixture=st.dictionaries(TEXTS, FLOATS, max_size=3),
    sizes=st.lists(st.integers(), max_size=3).map(tuple),
)


@given(JOBS)
def test_the_effective_recipe_reads_back_as_the_same_recipe(tmp_path_factory, job: Job) -> None:
    path = tmp_path_factory.mktemp("recipe") / RECIPE
    path.write_text(job.to_yaml(), "utf-8")
    again = load_recipe(path, Job)
    assert again == job and again.digest() == job.digest() and again.to_yaml() == job.to_yaml()


@given(JOBS, JOBS)
def test_equal_recipes_and_only_they_have_equal_digests(one: Job, other: Job) -> None:
    same = one.to_yaml() == other.to_yaml()
    assert (one.digest() == other.digest()) is same


@given(JOBS, st.sampled_from(sorted(Job.model_fields)), JOBS)
def test_any_changed_value_changes_the_digest(job: Job, field: str, other: Job) -> None:
    value = getattr(other, field)
    changed = job.model_copy(update={field: value})
    equal = json.dumps(job.model_dump(mode="json")) == json.dumps(changed.model_dump(mode="json"))
    assert (changed.digest() == job.digest()) is equal


@given(JOBS, st.randoms(use_true_random=False))
def test_the_order_of_keys_does_not_change_the_digest(tmp_path_factory, job, random) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = random.sample(list(value), len(value))
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    path = tmp_path_factory.mktemp("recipe") / RECIPE
    path.write_text(json.dumps(shuffled(job.model_dump(mode="json"))))  # JSON is YAML
    assert load_recipe(path, Job).digest() == job.digest()


def test_a_recipe_cannot_be_changed() -> None:
    job = Job()
    for target, field in ((job, "steps"), (job.optimizer, "name"), (job, "unknown")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(target, field, 1)
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Job(stpes=1)  # type: ignore[call-arg]


def test_a_default_of_the_wrong_type_is_an_error_too() -> None:
    class Wrong(Recipe):
        steps: int = "3"  # type: ignore[assignment]

    with pytest.raises(ValidationError, match="valid integer"):
        Wrong()


def test_reading_a_recipe_needs_no_data_library() -> None:
    """The command line says what is wrong with a recipe before anything heavy is imported."""
    code = (
        "import sys, omni_diffusion.recipe; print({'pyarrow', 'fsspec', 'torch'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"

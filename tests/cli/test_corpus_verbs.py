"""The verbs as a user meets them: exit codes, named files, JSON for scripts, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from corpora import make_corpus, make_sample
from omni_diffusion.corpus.index import compact
from omni_diffusion.corpus.shard import write_shard
from omni_diffusion.corpus.sidecar import sidecar_name, tar_name
from omni_diffusion.corpus.storage import Storage


def omni(*arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "omni_diffusion", *arguments]
    environment = {**os.environ, "COLUMNS": "100"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def test_help_lists_the_verbs_without_loading_anything_heavy() -> None:
    program = (
        "import sys; import omni_diffusion.cli; "
        "print({'torch', 'ray', 'pyarrow', 'numpy', 'rich.console'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()"
    help_text = omni("--help").stdout
    assert "verify" in help_text
    assert "show" in help_text


def test_verify_passes_a_whole_corpus_and_fails_a_damaged_one(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 1])
    assert "2 shards, 3 samples, 0 rejects: all well" in omni("verify", str(tmp_path)).stdout
    path = tmp_path / tar_name(1)
    path.write_bytes(path.read_bytes().replace(b"s2.omni", b"s9.omni"))
    done = omni("verify", str(tmp_path), code=1)
    assert f"problem: {path}" in done.stdout
    report = json.loads(omni("verify", str(tmp_path), "--json", code=1).stdout)
    assert report["ok"] is False
    assert str(path) in {problem["path"] for problem in report["problems"]}


def test_verify_rebuilds_what_can_be_rebuilt(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2, 1])
    (tmp_path / sidecar_name(1)).unlink()
    omni("verify", str(tmp_path), code=1)
    assert "all well" in omni("verify", str(tmp_path), "--rebuild-index").stdout


def test_show_prints_record_spans_and_lengths(tmp_path: Path) -> None:
    make_corpus(tmp_path, [2])
    shown = omni("show", str(tmp_path), "s1").stdout
    for piece in ("What is it?", "Answer 1.", "image256", "2×3", "voice-1", "supervised 12"):
        assert piece in shown
    told = json.loads(omni("show", str(tmp_path), "s1", "--json").stdout)
    assert told["lengths"] == {"text": 12, "image256": 6, "speech": 9}
    assert [span["role"] for span in told["spans"]] == ["user", "user", "assistant"]


def test_show_does_not_pass_terminal_commands_on(tmp_path: Path) -> None:
    sample = make_sample("s0", question="\x1b]0;owned\x07\x1b[2J?")
    write_shard(Storage(tmp_path), 0, [sample], {})
    compact(Storage(tmp_path))
    shown = omni("show", str(tmp_path), "s0").stdout
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "owned" in shown


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "{}", "nobody"], "no sample has the key 'nobody'"),
        (["show", "{}/nothing", "s0"], "there is no corpus here"),
        (["verify", "{}/nothing", "--rebuild-index"], "holds no shards"),
        (["show", "gs3://bucket/x", "s0"], "gs3://bucket/x"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(tmp_path: Path, arguments, said) -> None:
    make_corpus(tmp_path, [1])
    done = omni(*(a.format(tmp_path) for a in arguments), code=1)
    assert done.stderr.startswith("error: ")
    assert said in done.stderr
    assert done.stdout == ""

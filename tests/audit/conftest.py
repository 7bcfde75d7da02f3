"""One varied corpus, and one session on it, for the whole test run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from audits import Varied, make_varied
from omni_diffusion.audit.audit import Audit
from s3fixtures import bucket, s3, s3_server  # noqa: F401 - fixtures


@pytest.fixture(scope="session")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Varied:
    return make_varied(tmp_path_factory.mktemp("varied"))


@pytest.fixture(scope="session")
def audit(varied: Varied, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    weights = {"t2i": 3.0, "tts": 1.0, "asr": 1.0}
    cache = tmp_path_factory.mktemp("cache")
    with Audit(varied.root, against=varied.root, weights=weights, cache=cache) as opened:
        yield opened

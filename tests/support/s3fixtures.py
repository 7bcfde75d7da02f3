"""An S3 server for the whole test run, and a bucket of its own for each test that asks."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from s3server import S3Server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    from s3server import S3Server  # takes a second to import, which other tests need not pay

    server = S3Server()
    yield server
    server.close()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch) -> Iterator[S3Server]:
    """The server, with this process's environment pointing to it."""
    import s3fs

    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    # s3fs keeps clients by their arguments and does not see that the environment has changed.
    s3fs.S3FileSystem.clear_instance_cache()
    s3_server.requests.clear()
    yield s3_server
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """URL of a new, empty bucket."""
    import s3fs

    name = f"bucket-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(name)
    s3.requests.clear()
    return f"s3://{name}"

"""Fixtures of the tests of the corpus store."""

from s3fixtures import bucket, s3, s3_server  # noqa: F401 - fixtures

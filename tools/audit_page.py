"""Run the commands of a page of documentation and write what they print below them.

    python tools/audit_page.py docs/audit.md FOLDER

A command is a line `$ omni-diffusion ...` in a block that begins with "```console", with the lines
up to its last quote; what it prints takes the place of the lines below it. A YAML block whose first
line is `# NAME` is written to that file first. Everything runs in FOLDER, where the corpora of the
page must be.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

PROMPT = "$ "


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a page: its text without the prompt, and the lines that it printed."""

    text: str
    output: list[str]


def commands(page: str) -> list[Command]:
    """The commands of a page, in order."""
    found: list[Command] = []

    def note(text: str, output: list[str]) -> list[str]:
        found.append(Command(text, output))
        return output

    rewrite(page, note)
    return found


def files(page: str) -> dict[str, str]:
    """Files that a page shows: name to text."""
    found = {}
    for block in page.split("```yaml\n# ")[1:]:
        name, _, rest = block.partition("\n")
        found[name] = rest.partition("```")[0]
    return found


def rewrite(page: str, run: Callable[[str, list[str]], list[str]]) -> str:
    """A page with the output of its commands replaced.

    Args:
        page: the text.
        run: from a command and the lines below it to the new lines.
    """
    lines: list[str] = []
    block: list[str] | None = None
    for line in page.splitlines():
        if block is None:
            lines.append(line)
            block = [] if line == "```console" else None
        elif line == "```":
            lines += [*_ran(block, run), line]
            block = None
        else:
            block.append(line)
    return "\n".join(lines) + "\n"


def _ran(block: list[str], run: Callable[[str, list[str]], list[str]]) -> list[str]:
    starts = [i for i, line in enumerate(block) if line.startswith(PROMPT)]
    lines: list[str] = []
    for start, end in zip(starts, [*starts[1:], len(block)], strict=True):
        last = start
        while not _whole("\n".join(block[start : last + 1])):
            last += 1
        command = block[start : last + 1]
        text = "\n".join(command)
        lines += command + run(text.removeprefix(PROMPT), block[last + 1 : end])
    return lines


def _whole(text: str) -> bool:
    """Whether all quotes of a command are closed."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def main(page: Path, folder: Path) -> None:
    """Run the page's commands in a folder and write it anew."""
    text = page.read_text("utf-8")
    for name, content in files(text).items():
        (folder / name).write_text(content, "utf-8")

    def run(command: str, _: list[str]) -> list[str]:
        print(PROMPT + command, file=sys.stderr)
        path = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(folder)}
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env=path | {"OMP_NUM_THREADS": "2"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return [line.rstrip() for line in done.stdout.splitlines()]

    page.write_text(rewrite(text, run), "utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]).resolve())

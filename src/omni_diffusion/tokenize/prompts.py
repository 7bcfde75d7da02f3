"""How each published task is asked for.

The wording is that of the published data formats, letter by letter: the model has seen no other.
(`sqa` is known from the published inference script only.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from omni_diffusion.errors import RecordError

TASKS: Final[Mapping[str, tuple[str, str]]] = {
    "asr": ("", "Convert the speech to text.\n<|audio|>"),
    "tts": ("", "Convert the text to speech.\n{text}"),
    "t2i": ("", "Generate an image based on the provided text description.\n{text}"),
    "caption": ("", "{text}\n<|image|>"),
    "vqa": ("", "{text}\n<|image|>"),
    "s2i": ("Please generate an image based on the input audio.", "<|audio|>"),
    "sqa": ("Please response the input audio.", "<|audio|>"),
    "svqa": ("Please response the input audio based on the given image.", "<|audio|>\n<|image|>"),
    "text": ("", "{text}"),
}
"""Task to system and user content; `{text}` is what `task_messages` puts in."""


def task_messages(
    task: str, text: str = "", *, published_inference: bool = False
) -> list[dict[str, str]]:
    """The messages that ask for a task, worded as in the published data.

    Args:
        task: one of `TASKS`.
        text: the question, description or sentence, for the tasks that have one.
        published_inference: put a newline before audio that no text precedes, as the published
            inference script does and the published training data does not.

    Raises:
        RecordError: the task is unknown, or `text` is missing or not used by it.
    """
    if task not in TASKS:
        raise RecordError(task, "task", f"is none of {', '.join(TASKS)}")
    system, user = TASKS[task]
    if ("{text}" in user) != bool(text):
        raise RecordError(task, "text", "is not used by this task" if text else "is empty")
    if published_inference and user == "<|audio|>":
        user = "\n" + user
    messages = [{"role": "user", "content": user.replace("{text}", text)}]
    return [{"role": "system", "content": system}, *messages] if system else messages

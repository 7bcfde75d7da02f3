"""How a user asks for a picture or for a caption, aloud.

The published example of speech-to-image speaks an instruction before the description (its wording
is the first one here). One record in five has the bare description.
"""

from __future__ import annotations

from omni_diffusion.sdvi.voices import choose

IMAGE_REQUESTS = (
    "Generate an image based on the provided text description.",
    "Please generate an image of the following.",
    "Create a picture from this description.",
    "Draw what I describe.",
    "Make an image that shows this.",
    "I would like a picture of this.",
    "Please draw the following scene.",
    "Can you make a picture for me? Here is what I want.",
    "Show me an image of this.",
    "Paint this for me, please.",
    "Turn this description into an image.",
    "Here is a description. Please make the picture.",
    "Produce an image that matches these words.",
    "I need an image. It should look like this.",
    "Imagine this and draw it.",
    "Please create the image that I describe now.",
    "Give me a picture of the following.",
    "Let me see a picture of this.",
    "Could you draw this for me?",
    "Design an image like this.",
)

CAPTION_REQUESTS = (
    "Describe this image.",
    "What does the picture show?",
    "What can you see in this picture?",
    "Please tell me what is in the image.",
    "Give me a short description of this picture.",
    "What is this a picture of?",
    "Say in a sentence what you see.",
    "Please describe the picture for me.",
    "Can you tell me what this image shows?",
    "How would you describe this image?",
)

_BARE_PERCENT = 20


def image_request(key: str) -> str:
    """What is said before a description; "" for one record in five."""
    if choose(0, key, "bare description", 100) < _BARE_PERCENT:
        return ""
    return IMAGE_REQUESTS[choose(0, key, "image request", len(IMAGE_REQUESTS))]


def caption_request(key: str) -> str:
    """How a caption is asked for."""
    return CAPTION_REQUESTS[choose(0, key, "caption request", len(CAPTION_REQUESTS))]

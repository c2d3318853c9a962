"""What a prompt must not say to a server. Pure.

The one rule: a prompt is text by a stranger, so what a server would take for a command is disarmed. What
people write on purpose stays: ``<lora:name:1>``, weights in brackets.
"""

import re
from typing import Final

_SD_CPP_TAG: Final = re.compile(r"<(\s*/?\s*sd_cpp_extra_args\s*)>", re.IGNORECASE)


def disarmed(prompt: str) -> str:
    """Take the brackets off the tag by which a prompt sets size, seed and steps of an sd-server."""
    return _SD_CPP_TAG.sub(r"(\1)", prompt)

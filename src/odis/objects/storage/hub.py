"""Files of the Hugging Face Hub by their URL, so that a range of one costs a request.

`HfFileSystem` asks the Hub for the folder of a file before it opens it, and remembers what it was told.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any
from urllib.parse import unquote

HUB = "hf://"

_ADDRESS = re.compile(r"hf://((?:datasets/|spaces/)?)([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", re.DOTALL)


def hub_url(uri: str) -> str:
    """The URL of `hf://datasets/OWNER/NAME[@REVISION]/PATH`, or of a model or space likewise.

    Raises:
        ValueError: It is no such address.
    """
    from huggingface_hub import hf_hub_url

    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise ValueError("must be hf://datasets/OWNER/NAME[@REVISION]/PATH")
    kind, name, revision, path = found.groups()
    url: str = hf_hub_url(
        name, path, repo_type=kind[:-2] or None, revision=None if revision is None else unquote(revision)
    )
    return url


@cache
def hub_options() -> dict[str, Any]:
    """What a request needs to be let in: the token of `HF_TOKEN`, or the one that `hf auth login` kept. It is
    looked for once; `cache_clear` has it looked for again.
    """
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # its docs name it

    return {"headers": build_hf_headers(library_name="odis")}

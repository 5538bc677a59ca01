"""Files of the Hugging Face Hub by their URL, so that a range of one costs a request.

`HfFileSystem` asks the Hub for the folder of a file before it opens it, and remembers what it was told.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

HUB = "hf://"

_ADDRESS = re.compile(r"hf://((?:datasets/|spaces/)?)([^/@]+/[^/@]+)(?:@([^/]+))?/(.+)", re.DOTALL)


def hub_url(uri: str) -> str:
    """The URL of `hf://datasets/OWNER/NAME[@REVISION]/PATH`, or of a model or space likewise.

    Raises:
        ValueError: It is no such address.
    """
    found = _ADDRESS.fullmatch(uri)
    if found is None:
        raise ValueError("must be hf://datasets/OWNER/NAME/PATH")
    kind, name, revision, path = found.groups()
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    where = revision if revision and "%2F" in revision else quote(revision or "main", safe="")
    return f"{endpoint}/{kind}{name}/resolve/{where}/{quote(path)}"


def hub_options() -> dict[str, Any]:
    """What a request needs to be let in: the token of `HF_TOKEN`, or the one that `hf auth login` kept."""
    token = os.environ.get("HF_TOKEN", "").strip()
    if not token:
        home = os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface"
        kept = Path(os.environ.get("HF_TOKEN_PATH") or Path(home) / "token")
        try:
            token = kept.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeError):
            token = ""
    return {"headers": {"Authorization": f"Bearer {token}"}} if token else {}

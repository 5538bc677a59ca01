"""What loggers were sent, in `loggers.json` of the run's folder: so that a resumed run goes on with the same
run of each, and sends no value twice.
"""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

from odis.machine.files import write_text_whole

FILE = "loggers.json"

_EVERY = 1.0  # seconds between writes; a run that is killed may send again what it sent since the last


class SentLines:
    """For each logger the id of its run, and the last step sent of each kind.

    Args:
        folder: The run's folder.
        anew: Forget what was sent: the run goes on from an earlier step with other settings, and what was
            sent behind that step will not be what it was.
    """

    def __init__(self, folder: Path, *, anew: bool = False) -> None:
        self._path = folder / FILE
        self._lock = threading.Lock()
        self._written = 0.0
        self._held: dict[str, dict[str, Any]] = {} if anew else self._read()
        self._before = {name: dict(one) for name, one in self._held.items()}

    def _read(self) -> dict[str, dict[str, Any]]:
        try:
            found = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        if not isinstance(found, dict):
            return {}
        return {name: one for name, one in found.items() if isinstance(one, dict)}

    def run_id(self, logger: str) -> str | None:
        """The id of a logger's run; None if it has none yet."""
        found = self._held.get(logger, {}).get("id")
        return found if isinstance(found, str) else None

    def has_id(self, logger: str, value: str) -> None:
        """Note the id of a logger's run."""
        self._note(logger, "id", value)

    def has(self, logger: str, kind: str, step: int) -> bool:
        """Whether an earlier call sent the entry of a step."""
        last = self._before.get(logger, {}).get(kind)
        return isinstance(last, int) and step <= last

    def note(self, logger: str, kind: str, step: int) -> None:
        """Note that the entry of a step was sent."""
        self._note(logger, kind, step)

    def _note(self, logger: str, key: str, value: Any) -> None:
        with self._lock:
            self._held.setdefault(logger, {})[key] = value
            if key == "id" or time.monotonic() - self._written > _EVERY:
                self._write()

    def flush(self) -> None:
        """Write what was noted."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        write_text_whole(self._path, json.dumps(self._held) + "\n")
        self._written = time.monotonic()

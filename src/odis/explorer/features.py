"""Features of the index by one network in one mode: embedded once, kept beside the run, used again.

They are a table of `odis embed`, in parts: what is there is checked by the hash of the weights, the content
of the index and the query, and goes on where an earlier explorer stopped. Of other weights or another index
it is made again.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from odis.config.feature_tables import FeatureTableConfig
from odis.config.query import QueryConfig, ReadConfig
from odis.errors import DataError
from odis.explorer.search import ObjectSearch
from odis.explorer.worker import Pause
from odis.inference.encoder import Encoder
from odis.inference.feature_tables import ABOUT, describe, export_features
from odis.machine.checksums import DamagedError, verify_parquet
from odis.machine.files import remove_folder
from odis.machine.locks import sole_owner
from odis.objects.index import ObjectIndex
from odis.objects.skips import SkipGroups
from odis.types import Skipped

PART_IMAGES = 256
"""Images in a part: what a stop loses at most, and after how many there is more to search."""

_OF_NO_MATTER = {"model", "index", "odis_version", "step", "model_provenance"}  # the weights say more


class FeatureBank:
    """The features that are searched, and how far they have got.

    Args:
        encoder: The network.
        index: Images and objects.
        query: Mode (one), size and context.
        read: How images are read.
        home: Folder for tables of this network.
        content: The fingerprint of the index, which is read in full for it.
    """

    def __init__(
        self,
        encoder: Encoder,
        index: ObjectIndex,
        query: QueryConfig,
        read: ReadConfig,
        home: Path,
        content: str,
    ) -> None:
        self.encoder, self.index = encoder, index
        self.settings = FeatureTableConfig(query, replace(read, workers=0), part_images=PART_IMAGES)
        self.search = ObjectSearch(index.count_objects())
        self.skipped: list[str] = []  # what cannot be used, by reason
        self.problem: str | None = None
        self.started = False
        self.images = 0  # embedded so far
        self._loaded = 0  # parts that are searched
        context = "" if query.context is None else f"-context-{query.context:g}"
        self.folder = home / f"{content}-{query.mode}-{query.size}{context}"

    @property
    def done(self) -> bool:
        """Whether all images are embedded and searched."""
        return self._loaded * PART_IMAGES >= len(self.index)

    def state(self) -> dict[str, Any]:
        """For the page: images done and in all, objects searched, what went wrong."""
        return {
            "started": self.started,
            "done": self.done,
            "images": self.images,
            "of": len(self.index),
            "objects": len(self.search),
            "skipped": self.skipped,
            "problem": self.problem,
        }

    def fill(self, pause: Pause) -> None:
        """Embed what is not there, and search it part by part; runs in the thread of the networks.

        Args:
            pause: Called after each image.

        Raises:
            Exception: it cannot be done; `problem` says the same.
        """

        groups = SkipGroups()

        def skip(skipped: Skipped) -> None:
            groups.add(skipped)
            self.skipped = list(groups.lines())

        def progress(done: int, total: int) -> None:
            self.images = done
            self._load(done)
            pause()

        self.problem = None
        try:
            with sole_owner(self.folder, "explore"):
                self._remove_other()
                export_features(
                    self.encoder, self.index, self.folder, self.settings, skip=skip, progress=progress
                )
                self._load(len(self.index))
        except Exception as error:  # no memory, a full disk: the page says so
            self.problem, self.started = str(error), False  # it is tried again when it is asked for
            raise

    def _remove_other(self) -> None:
        """Remove features of other weights, of an interrupted beginning, or of another version."""
        about = self.folder / ABOUT
        if not self.folder.exists():
            return
        try:
            before = json.loads(about.read_text(encoding="utf-8"))
            same = all(
                before.get(name) == value
                for name, value in describe(self.encoder, self.index, self.settings).items()
                if name not in _OF_NO_MATTER
            )
        except (OSError, ValueError, RecursionError, AttributeError):
            same = False
        if not same:
            remove_folder(self.folder)

    def _load(self, images: int) -> None:
        """Search the parts of the first so many images that are whole."""
        while not self.done and min((self._loaded + 1) * PART_IMAGES, len(self.index)) <= images:
            part = self.folder / f"part-{self._loaded:05d}.parquet"
            try:
                verify_parquet(part)
            except (FileNotFoundError, DamagedError):
                return  # it is about to be written, or made again
            columns = pq.read_table(part, columns=["row", "object", "vector"])
            vectors = columns.column("vector").combine_chunks().flatten().to_numpy()
            width = self.encoder.width(self.settings.query.mode)
            features = torch.from_numpy(vectors.reshape(-1, width).astype(np.float32))
            rows, numbers = (
                torch.from_numpy(columns.column(name).to_numpy().astype(np.int64))
                for name in ("row", "object")
            )
            self.search.add(features, rows, numbers)
            self._loaded += 1


def home_of(source: str, weights: str) -> Path:
    """Where the features of a network are kept: in the run's folder, beside its file, or in the cache folder
    for a network by name and where nothing may be written.

    Args:
        source: As given on the command line.
        weights: What tells its weights from others.

    Raises:
        DataError: no folder can be written.
    """
    path = Path(source)
    named = [] if source.startswith("timm:") else [path if path.is_dir() else path.parent]
    caches = [
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "odis",
        Path(tempfile.gettempdir()) / "odis",
    ]
    for folder in (*named, *caches):
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if os.access(there, os.W_OK | os.X_OK):
            return folder / "explore" if path.is_dir() and folder in named else folder / "explore" / weights
    raise DataError(f"{source}: there is no folder that its features can be written to")

"""How training reads its images: settings that change no result."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class LoaderConfig:
    """How images are read. No setting changes what is computed, except for the rounding of pixels to 8 bits
    and what JPEG loses in copies on disk.

    Args:
        workers: Data loading processes on each rank; 0 loads in the training process.
        prefetch: Batches each worker prepares ahead.
        keep: Where decoded images are kept, in order of preference, for example `[device:20GiB, memory,
            disk:DIR]` (in quotes on a command line). `memory` or `memory:8GiB`: in memory that the workers
            share, at most three quarters of it. `disk:DIR`: large photographs as smaller copies in a folder,
            which later epochs and other runs read. `device:20GiB`: on the training device, with `render:
            device`, so that images are sent once. By default every image is read from its file each time.
        fetch_cache: Local folder and size, `DIR:20GiB`, that keeps the bytes of images fetched from a store
            (`s3://`, `https://`, ...); what was used longest ago makes room. Files of this machine are not
            copied. By default images are fetched each time.
        render: Where views are rendered: by the workers (`cpu`), or on the training device, so that workers
            only decode. For a GPU that they cannot keep busy.
    """

    workers: int = 4
    prefetch: int = 2
    keep: list[str] = field(default_factory=list)
    fetch_cache: str | None = None
    render: Literal["cpu", "device"] = "cpu"

"""The settings of a Parquet table of features, as `odis embed` writes one."""

from __future__ import annotations

from dataclasses import dataclass, field

from odis.config.query import QueryConfig, ReadConfig
from odis.errors import OdisError

VECTOR_TYPES = ("fp16", "fp32")


@dataclass(frozen=True, slots=True)
class FeatureTableConfig:
    """What is written, and in which files.

    Args:
        query: Mode (one), size and context; objects or images.
        read: How images are read.
        dtype: Type of the vectors: fp32 or fp16.
        part_images: Images in a file. A killed process loses one file at most.
    """

    query: QueryConfig = field(default_factory=QueryConfig)
    read: ReadConfig = field(default_factory=ReadConfig)
    dtype: str = "fp32"
    part_images: int = 2048

    def check(self) -> None:
        """Refuse what cannot be written.

        Raises:
            OdisError: naming the setting and what is allowed.
        """
        if self.dtype not in VECTOR_TYPES:
            raise OdisError(f"dtype {self.dtype!r} is none of {', '.join(VECTOR_TYPES)}")
        if self.part_images < 1:
            raise OdisError(f"part-images {self.part_images} must be 1 or more")
        self.query.only(self.query.mode).check()
        self.read.check()

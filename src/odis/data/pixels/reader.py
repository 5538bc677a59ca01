"""One reader of images: it asks the caches of `loader.keep` in turn, and the file last.

    read(request):   device -> memory -> disk -> file     the first that has the image gives it
                     device <- memory <- disk <-          those asked before it may keep it

A batch is the same, bit for bit, wherever its pixels come from, except that a copy on disk is a
JPEG where it has three channels of 8 bits.
"""

from __future__ import annotations

from typing import Protocol

from odis.config.keep import CachePlace, parse_fetch_cache, parse_keep
from odis.config.loading import LoaderConfig
from odis.config.training import ViewsConfig
from odis.data.pixels.decode import Decoded, decode
from odis.data.pixels.device import DeviceCache
from odis.data.pixels.disk import DiskCache, make_folder
from odis.data.pixels.memory import MemoryCache
from odis.data.pixels.request import ImageRequest
from odis.data.pixels.shrink import guaranteed_shrink
from odis.objects.storage.address import is_elsewhere
from odis.objects.storage.byte_cache import ByteCache
from odis.objects.storage.reading import ByteReader


class ImageCache(Protocol):
    """A place that may have an image."""

    def get(self, request: ImageRequest) -> Decoded | None:
        """The image, if it is there. Nobody may write to its pixels."""
        ...

    def holds(self, request: ImageRequest) -> bool:
        """Whether the image is there, without reading it."""
        ...

    def put(self, request: ImageRequest, image: Decoded) -> Decoded:
        """Keep an image if there is room; what is returned is what `get` will give, or `image`."""
        ...


class ImageReader:
    """Images of an index by row, from wherever they are.

    Args:
        loader: `keep`, `fetch_cache` and `render` are read.
        views: What bounds the size of copies on disk.
        rows: Images of the index.

    Raises:
        ConfigError: An entry of `loader.keep` is wrong, or its folder cannot be written to.
    """

    def __init__(self, loader: LoaderConfig, views: ViewsConfig, rows: int) -> None:
        self._views = views
        fetched = parse_fetch_cache(loader.fetch_cache)
        self.bytes = ByteReader(None if fetched is None else ByteCache(*fetched))
        self._caches = [_cache(place, views, rows) for place in parse_keep(loader.keep, loader.render)]
        self.device = next((cache for cache in self._caches if isinstance(cache, DeviceCache)), None)
        self.in_memory = any(isinstance(cache, MemoryCache) for cache in self._caches)
        self.keeps = bool(self._caches)
        self._on_disk = any(isinstance(cache, DiskCache) for cache in self._caches)

    def read(self, row: int, path: str, size: tuple[int, int], shrink: int) -> Decoded:
        """An image at 1 / `shrink` of its size, or larger.

        Args:
            row: Its row of the index.
            path: Its file, or its address elsewhere.
            size: `(width, height)` at full size that its objects were made for.
            shrink: From `needed_shrink`.

        Raises:
            DataError: Naming the file: missing, empty, truncated, not an image, of another size.
            UnreachableError: The store it is in does not answer.
        """
        request, asked = self._request(row, path, size, shrink), []
        for cache in self._caches:
            image = cache.get(request)
            if image is not None:
                break
            asked.append(cache)
        else:
            data = self.bytes.read(path) if is_elsewhere(path) else None
            image = decode(path, size, request.shrink, data, self._views.pixels)
        if not image.pixels.is_meta:
            for cache in reversed(asked):
                image = cache.put(request, image)
        return image

    def holds(self, row: int, path: str, size: tuple[int, int], shrink: int) -> bool:
        """Whether a cache has what `read` is asked for, which then asks for no bytes, unless a copy on disk
        is broken.
        """
        request = self._request(row, path, size, shrink)
        return any(cache.holds(request) for cache in self._caches)

    def _request(self, row: int, path: str, size: tuple[int, int], shrink: int) -> ImageRequest:
        if self._on_disk and 1 < (smallest := guaranteed_shrink(*size, self._views)) < shrink:
            shrink = smallest  # one copy serves every epoch
        return ImageRequest(row, path, size, shrink)


def _cache(place: CachePlace, views: ViewsConfig, rows: int) -> ImageCache:
    if place.where == "device":
        assert place.size is not None
        return DeviceCache(rows, place.size, views.channels)
    if place.where == "memory":
        return MemoryCache(rows, place.size, views.channels)
    assert place.folder is not None
    return DiskCache(place.folder, views)


def make_folders(loader: LoaderConfig) -> None:
    """Make the folders of `loader.keep` and `loader.fetch_cache`, so that one that cannot be is
    refused before there is a run.

    Raises:
        ConfigError: It cannot be made or written to.
    """
    for place in parse_keep(loader.keep, loader.render):
        if place.folder is not None:
            make_folder(place.folder)
    if (fetched := parse_fetch_cache(loader.fetch_cache)) is not None:
        make_folder(fetched[0], "loader.fetch_cache")

"""Which reader an image needs: HEIC and AVIF by their orientation, packages that are not installed."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from odis.config.pixels import PixelFormat
from odis.errors import DataError
from odis.objects.decoding import kinds, source
from odis.objects.decoding.kinds import installed, reader_of, register_heif
from odis.objects.decoding.source import Source
from odis.objects.images import header_sizes, load_image
from odis.objects.listing import IMAGE_SUFFIXES, Listing
from odis.objects.pixels import load_pixels

SIZE = (64, 48)


def marked() -> np.ndarray:
    """A smooth picture with a bright corner, which lossy formats keep."""
    y, x = np.mgrid[:48, :64]
    pixels = np.stack([2 * x + 60, 2 * y + 60, 100 + 0 * x], axis=2).astype(np.uint8)
    pixels[:16, :16] = 250
    return pixels


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("suffix", [".heic", ".avif"])
def test_a_rotated_picture_is_its_jpeg_twin(tmp_path: Path, suffix: str, orientation: int) -> None:
    """The container's rotation is used, and EXIF's is not used on top of it."""
    assert suffix in IMAGE_SUFFIXES
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(marked())
    image.save(tmp_path / "twin.jpg", quality=95, subsampling=0, exif=exif)
    if suffix == ".heic":
        register_heif()
        image.save(tmp_path / "a.heic", quality=95, exif=exif.tobytes())
        assert (b"irot" in (tmp_path / "a.heic").read_bytes()) == (orientation != 1)
    else:
        image.save(tmp_path / "a.avif", quality=95, exif=exif)
    path = tmp_path / f"a{suffix}"
    twin = np.array(load_image(tmp_path / "twin.jpg")).astype(int)
    found = np.array(load_image(path)).astype(int)
    assert header_sizes(path)[0] == header_sizes(tmp_path / "twin.jpg")[0] == twin.shape[1::-1]
    assert found.shape == twin.shape
    assert np.abs(found - twin).mean() < 4
    grey = load_pixels(path, form=PixelFormat(1))[..., 0]
    assert np.abs(grey - twin @ [0.2989, 0.587, 0.114]).mean() < 4


def test_exif_that_contradicts_the_container_of_heic_is_not_used(tmp_path: Path) -> None:
    register_heif()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(marked()).save(tmp_path / "a.heic", quality=95, exif=exif)
    assert b"irot" not in (tmp_path / "a.heic").read_bytes()
    assert header_sizes(tmp_path / "a.heic") == [SIZE]
    assert np.abs(np.array(load_image(tmp_path / "a.heic")).astype(int) - marked()).mean() < 4


@pytest.fixture
def without_packages(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if none of the extras were installed."""

    def missing(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(source, "import_module", missing)
    monkeypatch.setattr(kinds, "find_spec", lambda name: None)
    register_heif.cache_clear()
    yield
    register_heif.cache_clear()


@pytest.mark.usefixtures("without_packages")
@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.dcm", "pydicom", "dicom"),
        ("a.tif", "tifffile", "tiff"),
        ("a.heic", "pillow-heif", "heif"),
        ("a.tif#tile=0,0,0,8,8", "openslide", "slides"),
    ],
)
def test_a_package_that_is_missing_is_one_line(tmp_path: Path, name: str, package: str, extra: str) -> None:
    values = np.zeros((6, 9, 5), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack", planarconfig="contig")
    for other in ("a.dcm", "a.heic"):
        (tmp_path / other).write_bytes(b"x")
    with pytest.raises(DataError, match=rf"needs {package}: pip install 'odis\[{extra}\]'"):
        load_pixels(tmp_path / name, form=PixelFormat(5))


@pytest.mark.usefixtures("without_packages")
def test_files_that_a_package_would_read_are_counted_with_the_way_to_read_them() -> None:
    assert not installed(".dcm")
    assert installed(".png")
    listing = Listing("d")
    listing.others.update({".dcm files": 2, ".psd files": 1})
    told: list[str] = []
    listing.report(lambda one: told.append(one.why))
    assert told == [".dcm files (pip install 'odis[dicom]' reads them)", ".psd files"]


def test_pillow_reads_what_it_reads_whole(tmp_path: Path) -> None:
    Image.fromarray(marked()).save(tmp_path / "a.tif")
    Image.fromarray(marked()).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        for whole in (False, True):
            assert reader_of(Source(str(tmp_path / name)), whole) is None

"""DICOM by pydicom: numbers are rescaled, then windowed, then inverted (DICOM PS3.3, C.7.6.3 and C.11)."""

from __future__ import annotations

from typing import Any

import numpy as np

from odis.errors import DataError
from odis.objects.decoding.raw import RawImage
from odis.objects.decoding.source import Check, Source, opened_source

SUFFIXES = frozenset({".dcm", ".dicom"})


def size_of(source: Source) -> tuple[int, int]:
    """`(width, height)` in pixels."""
    data = _header(source)
    return int(data.Columns), int(data.Rows)


def unread(source: Source) -> list[tuple[str, int]]:
    """Frames after the first."""
    frames = int(getattr(_header(source), "NumberOfFrames", 1) or 1)
    return [("further frames of DICOM files", frames - 1)] if frames > 1 else []


def read(source: Source, check: Check, ranges_stated: bool = False) -> RawImage:
    """The first frame: rescaled numbers with the range of the file's window, or colours.

    Args:
        source: The file.
        check: May refuse its size.
        ranges_stated: The caller has ranges of its own, in rescaled numbers (of CT: Hounsfield units), so the
            file's window is not looked at.
    """
    data = _header(source, pixels=True)
    check(int(data.Columns), int(data.Rows))
    pixels = source.package("pydicom.pixels", "dicom")
    kind = str(data.get("PhotometricInterpretation", ""))
    index = 0 if int(data.get("NumberOfFrames", 1) or 1) > 1 else None
    values = np.asarray(pixels.pixel_array(data, index=index))  # YBR becomes RGB here
    if kind == "PALETTE COLOR":
        values = np.asarray(pixels.apply_color_lut(values, data))
        most = np.iinfo(values.dtype).max
        return RawImage(values[..., :3], order="colour", stated=(0.0, float(most)))
    bits = int(data.BitsStored)
    if values.ndim == 3:
        return RawImage(values, order="colour", stated=(0.0, float(2**bits - 1)))
    if kind not in ("MONOCHROME1", "MONOCHROME2"):
        raise DataError(f"{source.path}: has photometric interpretation {kind or 'none'}, which is not read")
    signed = bool(data.PixelRepresentation)
    ends = np.array([-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] if signed else [0, 2**bits - 1])
    rescaled = np.asarray(pixels.apply_modality_lut(values, data))
    window = _window(data)
    table = window is None and bool(data.get("VOILUTSequence") or _function(data) == "SIGMOID")
    stated: tuple[float, float] | None = None
    if not ranges_stated:
        stated = window
        if table:
            rescaled = np.asarray(pixels.apply_voi_lut(rescaled, data))
            if data.get("VOILUTSequence"):
                stated = 0.0, float(2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1)
            else:
                stated = _rescaled(ends, data)
    if stated is None:
        stated = _rescaled(ends, data)
    return RawImage(
        rescaled[..., None],
        stated=stated,
        inverted=kind == "MONOCHROME1",
        windowed=ranges_stated and (window is not None or table),
    )


def _rescaled(ends: np.ndarray, data: Any) -> tuple[float, float]:
    if data.get("ModalityLUTSequence"):
        return 0.0, float(2 ** int(data.ModalityLUTSequence[0].LUTDescriptor[2]) - 1)
    slope, intercept = float(data.get("RescaleSlope", 1)), float(data.get("RescaleIntercept", 0))
    low, high = sorted((ends * slope + intercept).tolist())
    return (low, high) if low < high else (low, low + 1.0)


def _function(data: Any) -> str:
    return str(data.get("VOILUTFunction", "LINEAR") or "LINEAR")


def _window(data: Any) -> tuple[float, float] | None:
    """What is black and white by the file's first window (C.11.2.1.2); None without a linear one."""
    centre, width = (_first_of(data.get(name)) for name in ("WindowCenter", "WindowWidth"))
    if centre is None or width is None or data.get("VOILUTSequence"):
        return None
    if _function(data) == "LINEAR" and width > 1:
        return centre - 0.5 - (width - 1) / 2, centre - 0.5 + (width - 1) / 2
    if _function(data) == "LINEAR_EXACT" and width > 0:
        return centre - width / 2, centre + width / 2
    return None


def _first_of(value: Any) -> float | None:
    if value is None or value == "":
        return None
    return float(value[0] if hasattr(value, "__len__") and not isinstance(value, str) else value)


def _header(source: Source, pixels: bool = False) -> Any:
    pydicom = source.package("pydicom", "dicom")
    data: Any = pydicom.dcmread(opened_source(source), stop_before_pixels=not pixels)
    if "Rows" not in data or "Columns" not in data:
        raise DataError(f"{source.path}: is a DICOM file without an image ({_modality(data)})")
    return data


def _modality(data: Any) -> str:
    return f"modality {data.get('Modality') or 'not stated'}"

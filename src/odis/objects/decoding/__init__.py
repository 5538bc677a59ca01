"""Images that Pillow does not read, or not whole: more channels than four, floats, DICOM, tiles of slides.

Each kind has a reader of its own behind an extra: `kinds.py` says which. It gives the numbers as the file has
them (`raw.RawImage`), and `raw.to_pixels` makes 8-bit channels of these, for every kind by the same rules.
"""

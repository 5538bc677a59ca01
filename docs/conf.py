"""Sphinx: Markdown by MyST, the theme Furo, nothing fetched at build or view time. `make docs` builds the
site.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

from odis import __version__

project = "odis"
author = "the odis authors"
copyright = "the odis authors. Apache-2.0; the weights you train are yours"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "odis_reference"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
smartquotes = False  # `--out` in a help text stays as it is typed
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"odis {release}"
html_static_path = ["_static"]
html_css_files = ["odis.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"

"""Data sets in their published layouts, as protocols read them."""

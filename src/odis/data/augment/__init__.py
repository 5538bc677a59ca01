"""Photometric augmentation: what is drawn, and what it does to pixels."""

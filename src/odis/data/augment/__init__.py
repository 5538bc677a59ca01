"""Photometric augmentation: drawing it, and applying it on the CPU or on the training device."""

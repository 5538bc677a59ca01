"""Off-the-shelf detectors as finders of objects: torchvision's, zero-shot ones of transformers, and SAM's
masks for found boxes.
"""

"""Protocols of images with one class each: `knn-imagenet`, `linear-imagenet`."""

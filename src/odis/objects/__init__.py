"""Annotations and folders of images in, the object index out."""

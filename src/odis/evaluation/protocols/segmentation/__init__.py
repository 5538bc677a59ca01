"""Protocols of images with a class for every pixel: `hummingbird`, `linear-seg`, `overcluster`,
`ade20k-linear`.
"""

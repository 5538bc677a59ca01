"""Protocols of depth: `nyu-depth-linear`."""

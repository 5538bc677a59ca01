"""Scenes of handwritten digits, made here."""

"""Geometry of crops and masks: numbers in, numbers out."""

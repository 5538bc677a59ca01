"""Crops and masks: numbers in, numbers out."""

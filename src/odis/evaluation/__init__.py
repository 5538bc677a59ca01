"""Evaluations of frozen features: features in, table out."""

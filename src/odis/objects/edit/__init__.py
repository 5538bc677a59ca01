"""Indexes made from indexes: filter, merge, perturb, compare, export."""

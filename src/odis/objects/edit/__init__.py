"""Indexes made from indexes: filter, split, merge, perturb, compare, export."""

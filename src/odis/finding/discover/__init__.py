"""Objects without annotations, from the patch features of a network."""

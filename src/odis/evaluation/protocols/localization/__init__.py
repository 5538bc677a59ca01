"""Protocols of objects that are found without annotations: `corloc`, `maskcut`."""

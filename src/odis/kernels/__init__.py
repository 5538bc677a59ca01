"""The same arithmetic, faster on some machines."""

"""Two networks on the same images: `odis compare`."""

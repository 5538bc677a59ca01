"""The commands of `odis`, one file each."""

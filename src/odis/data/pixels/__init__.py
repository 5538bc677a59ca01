"""Where an image's pixels come from: the device, memory, a disk cache, or its file."""

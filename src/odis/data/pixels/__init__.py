"""Where an image's pixels come from: one reader over the device, memory, copies on disk, and the file."""

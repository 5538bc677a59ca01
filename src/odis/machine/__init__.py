"""What the machine has: devices, ranks, memory, files, compiled loops."""

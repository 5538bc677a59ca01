"""The paper: object tokens, masked attention, heads, losses, one training step."""

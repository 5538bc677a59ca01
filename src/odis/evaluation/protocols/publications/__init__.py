"""What each protocol's publication states: source, settings, figures, and what ours differ in."""

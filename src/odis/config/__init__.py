"""Settings: typed, declared once, checked before anything runs."""

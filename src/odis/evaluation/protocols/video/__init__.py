"""Protocols of videos: `davis`."""

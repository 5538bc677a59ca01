"""Protocols of landmarks: `roxford`, `rparis`."""

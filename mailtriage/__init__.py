"""Sorts customer e-mail."""

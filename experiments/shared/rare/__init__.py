"""How often random tokens make a model say something rare: estimators, and every text as the truth beside them."""

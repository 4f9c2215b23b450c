"""The detector of the recipe: what it learns from, its training, its figures and its export."""

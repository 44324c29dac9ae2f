"""The answers: one page, one JSON, a recipe."""

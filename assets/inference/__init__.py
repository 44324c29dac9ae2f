"""How the model sees the data and how well it does: one forward pass."""

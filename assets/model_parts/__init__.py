"""Which parts of the model transfer: their activations, what they are worth, what training them alone recovers."""

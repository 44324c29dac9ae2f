"""How far the target lies from the source, seen by the model: per sample and per data set."""

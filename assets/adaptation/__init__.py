"""Adaptation: what the gap costs to close by changing the model, each method tried within a budget and judged alike."""

"""How large the loss gap is and what could be its cause."""

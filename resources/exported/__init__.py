"""Networks that come as one file: what they share (`network.py`, `program.py`, `deepest.py`), a module per format."""

"""The answers: one page, one JSON, a recipe."""

from pathlib import Path

TEMPLATES = Path(__file__).with_name("templates")
"""What the page is made of; part of the report's code version."""

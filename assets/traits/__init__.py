"""Traits: what is in the pictures, one number per sample and trait."""

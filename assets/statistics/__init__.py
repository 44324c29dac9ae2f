"""Statistics over plain arrays: resampling by unit, two-sample tests, distances, effect sizes, multiplicity.

Belongs here: whatever has a formula and an independent implementation to check against.
Does not: data sets, models, tables, thresholds for verdicts. Nothing of the project is imported.
"""

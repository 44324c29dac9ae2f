"""Is it really the cause: normalise, imitate, re-weight, measure, judge."""

"""``make demo``: a service whose traffic shifts, and the loop that keeps its model right, in under five minutes."""

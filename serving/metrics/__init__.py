"""The series of ``/metrics``: ours, and BentoML's with bounded labels. The README lists them all.

Each worker writes files of its own, and a scrape sums them over the workers. What callers make up never becomes a
label.
"""

UNKNOWN = "unknown"
"""The label of every path and every model that is not served."""

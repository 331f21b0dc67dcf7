"""Offline predictions of whole tables: Parquet or CSV in, the same rows with their predictions out.

The table is cut into parts. One function reads, checks, predicts and writes a part, in a process of this machine or of
a Ray cluster, so that the output has the same bytes either way. A part that was written is never computed again.
"""

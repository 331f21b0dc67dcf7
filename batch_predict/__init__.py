"""Predictions of whole tables, offline: Parquet or CSV in, the same rows with their predictions out.

The table is cut into parts of bounded size. A part is read, checked, predicted and written by one function, whoever
calls it: a process of this machine or of a Ray cluster. So the output is the same, to the byte, and a part that was
written is never computed again.
"""

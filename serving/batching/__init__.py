"""Adaptive batching: a queue, a timer that learns how long batches take, and the runner that uses both."""

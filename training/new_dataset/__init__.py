"""A table becomes a dataset: ``make dataset CSV=… TARGET=…``; ``make dataset-remove NAME=…`` takes it out again."""

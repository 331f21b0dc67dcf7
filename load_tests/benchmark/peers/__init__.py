"""The servers of the benchmark: what each is started with, in an environment of its own."""

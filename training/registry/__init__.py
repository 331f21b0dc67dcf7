"""Registers models in MLflow, makes the bytes of their files reproducible, and keeps MLflow's local database."""

"""What the MLflow registry and the BentoML store are filled with, and the file that the registry is kept in."""

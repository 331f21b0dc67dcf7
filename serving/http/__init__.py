"""HTTP: from bytes to a prediction and back."""

"""A fitted scikit-learn pipeline as an ONNX model."""

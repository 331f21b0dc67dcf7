"""The artifact: a model card, an ONNX file and the code that runs them.

Training writes artifacts, serving and batch prediction read them, and all of them check and run them with this code.
"""

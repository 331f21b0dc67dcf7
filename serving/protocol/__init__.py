"""The Open Inference Protocol (KServe V2): one codec, two transports. https://github.com/open-inference/open-inference-protocol."""

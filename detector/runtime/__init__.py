"""One interface over what runs a detector: PyTorch, ONNX Runtime and TensorRT."""

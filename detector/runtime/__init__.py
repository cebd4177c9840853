"""One interface over what runs a detector: PyTorch, ONNX Runtime, OpenVINO and TensorRT."""

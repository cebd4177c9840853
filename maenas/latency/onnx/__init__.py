"""Any ONNX network as kernels, and how long it takes."""

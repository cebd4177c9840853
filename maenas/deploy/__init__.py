"""What profiler and exporter both need: ONNX files of programs, quantisation, engines, sessions, clocks."""

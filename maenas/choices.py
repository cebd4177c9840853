"""The words that options take, as types: the command line checks and shows them, the library is typed with them."""

from typing import Literal

Precision = Literal["fp32", "bf16", "fp16", "int8"]
FilePrecision = Literal["fp32", "fp16", "int8"]  # what an exported file can hold
CpuArithmetic = Literal["fp32", "bf16"]  # of a file in fp32, on a CPU
Int8Form = Literal["tensorrt", "cpu"]  # who is to compute it
Scope = Literal["detector", "backbone"]  # what a budget counts
Solver = Literal["evolution", "exact"]
Clock = Literal["wall", "cpu"]  # elapsed time, or the CPU time of one thread
Method = Literal["in-graph", "alone"]  # how a kernel is timed
Hardware = Literal["cpu", "cuda"]
KernelRuntime = Literal["onnxruntime", "openvino", "torch", "tensorrt"]
Family = Literal["res", "csp", "mob"]  # how a structure text is read
Spelling = Literal["damo-yolo", "nas-toolbox"]

"""The words that options of the detector take, as types; nothing heavy is imported here."""

from typing import Literal

Split = Literal["train", "val", "test"]
Format = Literal["onnx", "engine"]
Nms = Literal["none", "in-graph"]
Method = Literal["entropy", "percentile", "minmax"]  # how the ranges of int8 are found
Sensitive = Literal["output", "ap"]  # what tells which layers int8 harms most
Rest = Literal["fp16", "fp32"]  # of what int8 leaves
RuntimeName = Literal["torch", "onnxruntime", "openvino", "openvino-bf16"]
TrackerName = Literal["tensorboard", "mlflow", "wandb"]

"""Sparse constants count as the whole ones that runtimes make of them."""

from pathlib import Path

import numpy as np
import pytest

from maenas.errors import MaenasError
from maenas.latency.onnx.lower import Lowered, lower_onnx

onnx = pytest.importorskip("onnx")
from onnx import helper, numpy_helper  # noqa: E402

WEIGHT = np.zeros((16, 3, 3, 3), np.float32)
SHAPE = np.array([1, 16, 1024], np.int64)
PLACES = np.array([[0], [1], [2]], np.int64)


def network(path: Path, places: np.ndarray | None) -> Lowered:
    """A convolution and a reshape whose constants are sparse, with the shape's numbers at `places`; None: whole."""
    nodes = [
        helper.make_node("Conv", ["x", "weight"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Reshape", ["y", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "matrix"], ["out"]),
    ]
    whole = [numpy_helper.from_array(WEIGHT, "weight"), numpy_helper.from_array(SHAPE, "shape")]
    sparse = []
    if places is not None:
        some = numpy_helper.from_array(np.ones(4, np.float32), "weight"), numpy_helper.from_array(np.arange(4), "at")
        all_ = numpy_helper.from_array(SHAPE, "shape"), numpy_helper.from_array(places, "places")
        sparse = [helper.make_sparse_tensor(*some, WEIGHT.shape), helper.make_sparse_tensor(*all_, SHAPE.shape)]
    kinds = {
        name: helper.make_tensor_value_info(name, 1, shape) for name, shape in (("x", [1, 3, 32, 32]), ("out", None))
    }
    matrix = numpy_helper.from_array(np.zeros((1024, 8), np.float32), "matrix")
    constants = [matrix, *(whole if places is None else [])]
    graph = helper.make_graph(nodes, "g", [kinds["x"]], [kinds["out"]], constants, sparse_initializer=sparse)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), path)
    return lower_onnx(path)


@pytest.mark.parametrize("places", [PLACES, PLACES[:, 0]])
def test_sparse_constants_are_as_good_as_whole_ones(tmp_path: Path, places: np.ndarray) -> None:
    sparse, whole = network(tmp_path / "sparse.onnx", places), network(tmp_path / "whole.onnx", None)
    assert sparse.kernels == whole.kernels
    assert [kernel.op for kernel in sparse.kernels] == ["conv", "matmul"]


def test_places_beyond_a_constant_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(MaenasError, match="not a valid ONNX file"):
        network(tmp_path / "net.onnx", PLACES + 5)

"""OnnxWeights: a model's weights as they are stored in an ONNX graph, and products with them.

    fp32   MatMul
    fp16   the same, of a Cast to fp32 that is done once, when the file is opened
    int8   DynamicQuantizeLinear, MatMulInteger: activations are rounded with one scale a tensor
    int4   MatMulNBits of ONNX Runtime, which computes in int8 with a scale a block
    int8_static   QuantizeLinear with a scale that is fixed, MatMulIntegerToFloat of ONNX Runtime

The values are those of `packing.py`, so that a weight is the same in every runtime.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from ..family import NARROW, WIDEN
from ..profile import Weight
from ..word_table import word_maps
from .entering import range_of
from .grid import grid_of
from .onnx_graph import OnnxGraph
from .packing import packed
from .payload import PartName, sides, stored_format, with_zeros
from .picked import picked

if TYPE_CHECKING:
    from ..candidate import Candidate

_MICROSOFT: Final = "com.microsoft"
_FLOAT: Final = {"to": 1}
"""Attributes of a Cast to float32."""


class OnnxWeights:
    """The weights of a candidate, stored in a graph when they are first used.

    Args:
        graph: where to.
        candidate: holds the values; its paper says the formats.
    """

    def __init__(self, graph: OnnxGraph, candidate: Candidate) -> None:
        self._graph = graph
        self._profile = with_zeros(picked(candidate))
        self._weights = {weight.name: weight for weight in self._profile.weights()}
        self._values = dict(candidate.module.named_parameters())
        self._maps = word_maps(candidate.module)
        self._grids = candidate.grids
        self._rounded: dict[str, list[str]] = {}
        self._fixed: dict[tuple[str, str, str], str] = {}
        self._widened: dict[str, str] = {}

    def vector(self, name: str) -> str:
        """A stored bias or norm."""
        return self._stored(self._weights[name], transposed=False)["plain"]

    def lookup(self, path: str, words: str) -> str:
        """Rows of a table: `(...)` numbers to `(..., width)`."""
        weight = self._weights[f"{path}.weight"]
        names = self._stored(weight, transposed=False)
        if (rows := self._maps.get(f"{path}.rows")) is not None:
            stored = self._graph.tensor(f"{path}.rows", rows.numpy())
            words = self._graph.op("Gather", [stored, words])
        if "plain" in names:
            return self._graph.op("Gather", [names["plain"], words])
        if "int8" in names:
            values = self._float(self._graph.op("Gather", [names["int8"], words]))
            scale = self._graph.op("Gather", [names["scale"], words])
            wide = self._graph.op("Unsqueeze", [scale, self._graph.integers(-1)])
            return self._graph.op("Mul", [values, wide])
        return self._lookup_int4(weight, names, words)

    def linear(self, path: str, hidden: str) -> str:
        """`(..., inputs)` to `(..., outputs)`, with the bias if there is one."""
        if f"{path}.{NARROW}.weight" in self._weights:
            return self.linear(f"{path}.{WIDEN}", self.linear(f"{path}.{NARROW}", hidden))
        weight = self._weights[f"{path}.weight"]
        bias = f"{path}.bias"
        if stored_format(self._profile, weight).name == "int8_static":
            added = self.vector(bias) if bias in self._weights else ""
            return self._static_product(weight, hidden, added)
        product = self._product(weight, hidden)
        if bias not in self._weights:
            return product
        return self._graph.op("Add", [product, self.vector(bias)])

    def tied(self, path: str, hidden: str) -> str:
        """The product with a table that is a language-modelling head too."""
        weight = self._weights[f"{path}.weight"]
        names = self._stored(weight, transposed=False)
        graph = self._graph
        if "plain" in names:
            # Gemm reads the table as it lies: a transposed copy would be folded into memory.
            flat = graph.op("Reshape", [hidden, graph.integers(-1, self._profile.width)])
            product = graph.op("Gemm", [flat, names["plain"]], {"transB": 1})
            shape = graph.op("Shape", [hidden], {"end": -1})
            whole = graph.op("Concat", [shape, graph.integers(-1)], {"axis": 0})
            return graph.op("Reshape", [product, whole])
        if "int8" in names:
            columns = graph.op("Transpose", [names["int8"]], {"perm": [1, 0]})
            return self._integer_product(columns, names["scale"], hidden)
        return self._int4_product(weight, names, hidden)

    def _product(self, weight: Weight, hidden: str) -> str:
        names = self._stored(weight, transposed=True)
        if "plain" in names:
            return self._graph.op("MatMul", [hidden, names["plain"]])
        if "int8" in names:
            return self._integer_product(names["int8"], names["scale"], hidden)
        return self._int4_product(weight, names, hidden)

    def _integer_product(self, columns: str, scale: str, hidden: str) -> str:
        graph = self._graph
        if hidden not in self._rounded:
            self._rounded[hidden] = graph.ops("DynamicQuantizeLinear", [hidden], 3)
        values, step, zero = self._rounded[hidden]
        product = self._float(graph.op("MatMulInteger", [values, columns, zero]))
        return graph.op("Mul", [product, graph.op("Mul", [step, scale])])

    def _static_product(self, weight: Weight, hidden: str, bias: str) -> str:
        """A product with rounded activations; `bias` is the name of a vector, or empty."""
        graph, names = self._graph, self._stored(weight, transposed=True)
        found = range_of(self._grids, weight)
        step, zero = graph.number(found.step), graph.constant(found.zero + 128, np.uint8)
        if (hidden, step, zero) not in self._fixed:
            self._fixed[hidden, step, zero] = graph.op("QuantizeLinear", [hidden, step, zero])
        values = self._fixed[hidden, step, zero]
        given = [values, names["int8"], step, names["scale"], zero, "", bias]
        return graph.op("MatMulIntegerToFloat", given if bias else given[:5], domain=_MICROSOFT)

    def _int4_product(self, weight: Weight, names: dict[PartName, str], hidden: str) -> str:
        outputs, inputs = sides(weight)
        attributes = {"N": outputs, "K": inputs, "bits": 4, "accuracy_level": 4}
        given = [hidden, names["int4"], self._float(names["scale"]), names["zero"]]
        size = self._block(weight)
        return self._graph.op(
            "MatMulNBits", given, {**attributes, "block_size": size}, domain=_MICROSOFT
        )

    def _lookup_int4(self, weight: Weight, names: dict[PartName, str], words: str) -> str:
        graph = self._graph
        width = sides(weight)[1]
        size = self._block(weight)
        scale = self._float(graph.op("Gather", [names["scale"], words]))
        values = self._halves(graph.op("Gather", [names["int4"], words]))
        zeros = self._halves(graph.op("Gather", [names["zero"], words]))
        groups = -(-width // size)
        zeros = self._first(zeros, groups)
        one = graph.integers(-1)
        centred = graph.op("Sub", [values, graph.op("Unsqueeze", [zeros, one])])
        rows = graph.op("Mul", [centred, graph.op("Unsqueeze", [scale, one])])
        shape = graph.op("Concat", [graph.op("Shape", [words]), one], {"axis": 0})
        return self._first(graph.op("Reshape", [rows, shape]), width)

    def _halves(self, pairs: str) -> str:
        """Two floats for every byte of the last axis, the low half first."""
        graph = self._graph
        low = graph.op("BitwiseAnd", [pairs, graph.constant(15, np.uint8)])
        shift = graph.constant(4, np.uint8)
        high = graph.op("BitShift", [pairs, shift], {"direction": "RIGHT"})
        last = graph.integers(-1)
        both = [graph.op("Unsqueeze", [half, last]) for half in (low, high)]
        stacked = self._float(graph.op("Concat", both, {"axis": -1}))
        shape = graph.op("Shape", [pairs], {"end": -1})
        return graph.op("Reshape", [stacked, graph.op("Concat", [shape, last], {"axis": 0})])

    def _first(self, values: str, count: int) -> str:
        graph = self._graph
        ends = [graph.integers(0), graph.integers(count), graph.integers(-1)]
        return graph.op("Slice", [values, *ends])

    def _float(self, value: str) -> str:
        return self._graph.op("Cast", [value], _FLOAT)

    def _wide(self, stored: str) -> str:
        """A stored fp16 tensor in fp32; one node for each, however often it is read."""
        if stored not in self._widened:
            self._widened[stored] = self._float(stored)
        return self._widened[stored]

    def _block(self, weight: Weight) -> int:
        return 2 * int(self._parts(weight)["int4"].shape[-1])

    def _stored(self, weight: Weight, transposed: bool) -> dict[PartName, str]:
        """Names of a weight's tensors; int8 and plain ones as (inputs, outputs) if transposed."""
        names: dict[PartName, str] = {}
        for part, array in self._parts(weight).items():
            turned = transposed and (part == "int8" or (part == "plain" and weight.input_axis == 1))
            name = weight.name if part == "plain" else f"{weight.name}:{part}"
            stored = self._graph.tensor(name, array.T if turned else array)
            halved = part == "plain" and array.dtype == np.float16
            names[part] = self._wide(stored) if halved else stored
        return names

    def _parts(self, weight: Weight) -> dict[PartName, np.ndarray]:
        grid = grid_of(self._grids, self._profile, weight)
        found = packed(self._profile, weight, self._values[weight.name], grid)
        return {part: tensor.numpy() for part, tensor in found.items()}

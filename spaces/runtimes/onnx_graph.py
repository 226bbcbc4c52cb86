"""OnnxGraph: an ONNX graph in the making, node by node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET: Final = 23
_IR_VERSION: Final = 11
_LARGEST: Final = 2**31 - 2**24
"""Protobuf holds less than 2 GB; larger models keep their tensors in a file of their own."""


class OnnxGraph:
    """Nodes and stored tensors. A value is named by a string.

    Small constants are nodes, so that the initializers are exactly the model's stored tensors.
    """

    def __init__(self) -> None:
        self._nodes: list[Any] = []
        self._tensors: dict[str, Any] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._count = 0

    def op(
        self,
        kind: str,
        inputs: Sequence[str],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
    ) -> str:
        """Adds a node; returns its only output."""
        return self.ops(kind, inputs, 1, attributes, domain=domain)[0]

    def ops(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: int,
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
    ) -> list[str]:
        """Adds a node; returns its outputs."""
        names = [self._fresh(kind) for _ in range(outputs)]
        node = helper.make_node(kind, list(inputs), names, domain=domain, **(attributes or {}))
        self._nodes.append(node)
        return names

    def constant(self, value: Any, dtype: type[np.generic]) -> str:
        """A small constant, one node for equal ones."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = numpy_helper.from_array(array)
            self._constants[key] = self.op("Constant", [], {"value": tensor})
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """A small int64 vector."""
        return self.constant(values, np.int64)

    def number(self, value: float) -> str:
        """A float32 scalar."""
        return self.constant(value, np.float32)

    def tensor(self, name: str, array: np.ndarray) -> str:
        """A stored tensor; storing a name again is storing it once."""
        if name not in self._tensors:
            self._tensors[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def save(self, path: Path, inputs: Mapping[str, Sequence[str]], output: str, rank: int) -> None:
        """Writes the graph, beside `NAME.data` if it is too large for one file.

        Args:
            path: `model.onnx`.
            inputs: int64 inputs and the names of their dynamic axes.
            output: the float32 value that is answered, as `logits`.
            rank: its number of axes, the first ones those of the inputs.
        """
        self._nodes.append(helper.make_node("Identity", [output], ["logits"]))
        axes = next(iter(inputs.values()))
        shape = [*axes[: rank - 1], None]
        graph = helper.make_graph(
            self._nodes,
            "paretune",
            [helper.make_tensor_value_info(n, TensorProto.INT64, a) for n, a in inputs.items()],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
            list(self._tensors.values()),
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        large = sum(len(tensor.raw_data) for tensor in self._tensors.values()) > _LARGEST
        data = f"{path.name}.data" if large else None
        onnx.save_model(model, path, save_as_external_data=large, location=data)

    def _fresh(self, kind: str) -> str:
        self._count += 1
        return f"{kind}_{self._count}"

"""ONNX Runtime: the fastest answers on CPU, from one ONNX file.

It holds fp32, fp16, int8 and int4 in every group that has matrices or tables. Adapters must be
merged; bottlenecks, which cannot be, are written into the graph in fp32. The zeros of sparse
matrices are stored like any other weight.
Continuations read the whole text anew for every token: there is no cache between tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..device import CPU
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Group, Profile
from ..steps import Bench, Phase, Reads, Runner, Step
from ..technique import Targets
from .payload import payload_bytes, with_zeros
from .refusals import ONNX_HOLDS, deployed_as_hf, onnx_gpu_refusals, onnx_refusals, otherwise

if TYPE_CHECKING:
    from ..candidate import Candidate

MODEL: Final = "model.onnx"

EXACT_PRODUCTS: Final = ("session.x64quantprecision", "1")
"""A session's option. Processors without VNNI add products of 8 bits in 16, which overflow; with it
they take a slower way that does not, so that int8 answers are the same on every processor."""


@dataclass(frozen=True)
class OnnxRuntimeDeploy:
    """Writes `model.onnx` and `artifact.json`."""

    name: ClassVar[str] = "onnxruntime.deploy"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.DEPLOY
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset({"formats"})

    @property
    def settings(self) -> Settings:
        """None."""
        return {}

    def on_paper(self, paper: Paper) -> Paper:
        """The paper with its runtime."""
        return replace(paper, runtime=OnnxRuntime.name)

    def deploy(self, candidate: Candidate, folder: Path, bench: Bench) -> None:
        """Writes the graph with every weight as its group's format says.

        Raises:
            StepFailed: kind `diverged`, a weight is not finite.
        """
        from .artifact import describe
        from .onnx_model import write_onnx

        profile = candidate.paper.profile
        write_onnx(candidate, folder / MODEL)
        describe(folder, OnnxRuntime.name, OnnxRuntime.version, profile.head.kind)


class OnnxRuntime:
    """ONNX Runtime on CPU; on a GPU in fp32, where onnxruntime-gpu is installed."""

    name: ClassVar[str] = "onnxruntime"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = "ONNX opset 23; com.microsoft.MatMulNBits for int4"
    holds: ClassVar[Mapping[Group, frozenset[str]]] = ONNX_HOLDS
    export_formats: ClassVar[frozenset[str]] = frozenset({"onnx"})
    caches: ClassVar[bool] = False
    files: ClassVar[str] = name

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """None."""
        return ()

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """What it cannot hold, or a folder that is to be deployed to."""
        profile = paper.profile
        there = () if targets.device == CPU else onnx_gpu_refusals(profile)
        here = otherwise(onnx_refusals(profile), "use the eager runtime")
        return [*here, *deployed_as_hf(paper, targets), *there]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Deploy."""
        return (OnnxRuntimeDeploy(),)

    def payload_bytes(self, profile: Profile) -> int:
        """Bytes of all initializers, zeros included; the graph comes on top."""
        return payload_bytes(with_zeros(profile))

    def open(self, folder: Path, *, threads: int = 1, device: str = CPU) -> Runner:
        """A runner over an artifact's files.

        Args:
            folder: what OnnxRuntimeDeploy wrote.
            threads: of this session.
            device: where its CUDA provider computes, or the CPU.

        Raises:
            VerificationFailed: ONNX Runtime cannot load the file.
        """
        from .onnx_runner import OnnxRunner

        return OnnxRunner(folder / MODEL, threads, device)

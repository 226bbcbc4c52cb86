"""Compiled: PyTorch's compiler over the whole graph, from the files of eager.

The artifact is eager's under another name: the same tensors, no code, so that it opens wherever
there is a compiler. It is compiled when it is first asked something, for any length of text, once
for one text and once for several; that takes from seconds to a minute and is no part of a latency.
What is in host memory meanwhile is in the peak memory. Whole numbers are not held: their products
are chosen in Python, which a graph does not see. Continuations read the whole text anew for every
token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..device import CPU
from ..hyperparameter import Hyperparameter
from ..paper import Paper
from ..profile import Group, Profile
from ..steps import Bench, Phase, Reads, Runner, Step
from ..technique import Targets
from .compiler import compiler_problem, compiler_version
from .payload import payload_bytes
from .refusals import adapter_refusals, beside_refusals, otherwise, unheld, unlike_adapters

if TYPE_CHECKING:
    from ..candidate import Candidate

_FLOATS: Final = frozenset({"fp32", "bf16"})


_UNTRACED: Final = (
    "compiled cannot trace dora adapters, whose layers look at themselves; merge them, or use eager"
)
_UNTRIED: Final = (
    "compiled is not tried with virtual tokens before the text; use eager, or onnxruntime"
)


@dataclass(frozen=True)
class CompiledDeploy:
    """Writes what eager writes."""

    name: ClassVar[str] = "compiled.deploy"
    version: ClassVar[int] = 1
    phase: ClassVar[Phase] = Phase.DEPLOY
    draws: ClassVar[bool] = False
    reads: ClassVar[frozenset[Reads]] = frozenset({"formats"})

    @property
    def settings(self) -> Settings:
        """The compiler: no file depends on it, but answers and speed do, which share the key."""
        return {"compiler": compiler_version()}

    def on_paper(self, paper: Paper) -> Paper:
        """The paper with its runtime."""
        return replace(paper, runtime=Compiled.name)

    def deploy(self, candidate: Candidate, folder: Path, bench: Bench) -> None:
        """Writes every weight as its group's format says.

        Raises:
            StepFailed: kind `diverged`, a weight is not finite.
        """
        from .artifact import describe
        from .eager_runner import write

        paper = self.on_paper(candidate.paper)
        write(candidate, paper, folder)
        describe(folder, Compiled.name, Compiled.version, paper.profile.head.kind)


class Compiled:
    """torch.compile over the whole graph, on CPU or GPU; compiled when it is opened, not stored."""

    name: ClassVar[str] = "compiled"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = "ASPLOS 2024, 10.1145/3620665.3640366 (PyTorch 2)"
    holds: ClassVar[Mapping[Group, frozenset[str]]] = {
        "embeddings": _FLOATS,
        "attention": _FLOATS,
        "ffn": _FLOATS,
        "head": _FLOATS,
        "norm": _FLOATS,
        "adapter": _FLOATS,
    }
    export_formats: ClassVar[frozenset[str]] = frozenset({"hf", "paretune"})
    caches: ClassVar[bool] = False
    files: ClassVar[str] = "eager"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """None."""
        return ()

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """What it cannot hold, a folder to deploy to, or that nothing compiles here."""
        profile = paper.profile
        return [
            *otherwise(unheld(profile, self.holds, self.name), "another runtime"),
            *unlike_adapters(profile),
            *adapter_refusals(profile),
            *(_UNTRACED for adapter in profile.adapters if adapter.kind == "dora"),
            *(_UNTRIED for adapter in profile.adapters if adapter.tokens or adapter.past),
            *beside_refusals(paper, targets),
            *_nothing_compiles(targets.device),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Deploy."""
        return (CompiledDeploy(),)

    def payload_bytes(self, profile: Profile) -> int:
        """Bytes of all tensors, as eager's."""
        return payload_bytes(profile)

    def open(self, folder: Path, *, threads: int = 1, device: str = CPU) -> Runner:
        """A runner that compiles when it is first asked.

        Args:
            folder: what CompiledDeploy wrote.
            threads: of torch, for the whole process.
            device: where it answers.

        Raises:
            VerificationFailed: the files are not an artifact's.
        """
        from .compiled_runner import CompiledRunner

        return CompiledRunner(folder, threads, device)


def _nothing_compiles(device: str) -> Iterator[str]:
    if device != CPU and find_spec("triton") is None:
        yield "compiled needs triton on a GPU; install triton, or use the eager runtime"
    problem = compiler_problem()
    if problem is not None:
        yield (
            f"compiled needs a C++ compiler, and {problem}; install g++ and the headers of this "
            "Python, set CXX to another compiler, or use the eager runtime"
        )

"""Eager: PyTorch as it is, from one safetensors file of packed tensors.

The plainest runtime, and the off row of its slot: it holds every format in every group, keeps
adapters unmerged, and in fp32 answers what the candidate's own module answers, bit for bit. Sparse
matrices lie without their zeros on disk, and with them in memory.
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
from .payload import payload_bytes
from .refusals import adapter_refusals, beside_refusals, otherwise, unheld, unlike_adapters

if TYPE_CHECKING:
    from ..candidate import Candidate

_ALL: Final = frozenset({"fp32", "bf16", "fp16", "int8", "int4", "int3"})
_FLOATS: Final = frozenset({"fp32", "bf16"})


@dataclass(frozen=True)
class EagerDeploy:
    """Writes `model.safetensors`, `paper.json` and `artifact.json`."""

    name: ClassVar[str] = "eager.deploy"
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
        return replace(paper, runtime=Eager.name)

    def deploy(self, candidate: Candidate, folder: Path, bench: Bench) -> None:
        """Packs every weight as its group's format says, and writes the artifact.

        Raises:
            StepFailed: kind `diverged`, a weight is not finite.
        """
        from .artifact import describe
        from .eager_runner import write

        paper = self.on_paper(candidate.paper)
        write(candidate, paper, folder)
        describe(folder, Eager.name, Eager.version, paper.profile.head.kind)


class Eager:
    """PyTorch on CPU or GPU, from packed tensors."""

    name: ClassVar[str] = "eager"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset()
    source: ClassVar[str] = "arXiv 1912.01703 (PyTorch)"
    holds: ClassVar[Mapping[Group, frozenset[str]]] = {
        "embeddings": _ALL,
        "attention": _ALL,
        "ffn": _ALL,
        "head": _ALL,
        "norm": _FLOATS,
        "adapter": _FLOATS,
    }
    export_formats: ClassVar[frozenset[str]] = frozenset({"hf", "paretune"})
    caches: ClassVar[bool] = True
    files: ClassVar[str] = name

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """None."""
        return ()

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """What it cannot hold, or a folder that is to be deployed to."""
        profile = paper.profile
        return [
            *otherwise(unheld(profile, self.holds, self.name), "another runtime"),
            *unlike_adapters(profile),
            *adapter_refusals(profile),
            *beside_refusals(paper, targets),
        ]

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Deploy."""
        return (EagerDeploy(),)

    def payload_bytes(self, profile: Profile) -> int:
        """Bytes of all packed tensors; the file has a header of names and shapes on top."""
        return payload_bytes(profile)

    def open(self, folder: Path, *, threads: int = 1, device: str = CPU) -> Runner:
        """A runner over an artifact's files.

        Args:
            folder: what EagerDeploy wrote.
            threads: of torch, for the whole process: torch has no others.
            device: where the packed tensors stand and are computed with.

        Raises:
            VerificationFailed: the files are not an artifact's.
        """
        from .eager_runner import EagerRunner

        return EagerRunner(folder, threads, device)

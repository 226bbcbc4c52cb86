"""Fine-tuning: orthogonal turns of the inputs (OFT), through peft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Final

from ..configuration import Settings
from ..hyperparameter import Hyperparameter, OneOf
from ..paper import Paper
from ..profile import Adapter, Product, Profile, Weight
from ..steps import Step
from ..technique import Targets
from .adapters import MERGE, adapted, beside, sides
from .lora import WHERE, not_adaptable, targeted, transposed_matrices
from .selection import learning_rate

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

TERMS: Final = 5
"""Terms of the Neumann series in place of an inverse: `I + 2Q + 2Q^2 + 2Q^3 + Q^4`."""


class Oft:
    """Trains rotations of what chosen matrices read, block by block: `W R`; a classifier too.

    Each block is the Cayley transform `(I + Q)(I - Q)^-1` of a skew matrix that starts at zero, its
    inverse a series of five terms: orthogonal as far as Q stays small. Angles between the rows of W
    stay as they are. Unmerged every pass makes the rotations anew. GPT-2's matrices are not read.
    """

    name: ClassVar[str] = "oft"
    version: ClassVar[int] = 1
    moves: ClassVar[frozenset[str]] = frozenset(
        {"parameters", "trainable", "flops", "bytes", "outputs", "recipe"}
    )
    source: ClassVar[str] = "arXiv 2306.07280; the series: arXiv 2506.19847"

    def hyperparameters(self, paper: Paper) -> Sequence[Hyperparameter]:
        """Width of a block, the matrices, the learning rate, and what happens after training."""
        block = OneOf("block", (8, 16, 32, 64), 32, ordered=True)
        return (block, WHERE, learning_rate(1e-3), MERGE)

    def objections(self, paper: Paper, settings: Settings, targets: Targets) -> list[str]:
        """Matrices that cannot be adapted or are not read, or inputs that blocks do not divide."""
        found = [*not_adaptable(paper, settings), *transposed_matrices(paper, settings)]
        block = int(settings["block"])
        for path, matrix in targeted(paper.profile, settings).items():
            inputs = sides(matrix)[0]
            if inputs % block:
                return [
                    *found,
                    f"blocks of {block} do not divide the {inputs} inputs of {path}; "
                    "choose a block that does",
                ]
        return found

    def steps(self, paper: Paper, settings: Settings) -> Sequence[Step]:
        """Attach, Select, Train, and Merge where that is wanted."""
        return adapted(self, settings, beside("oft_R.default.weight"))

    def adapter(self, profile: Profile, settings: Settings) -> Adapter:
        """The upper halves of the skew blocks before every matrix that is wrapped."""
        matrices, block = targeted(profile, settings), int(settings["block"])
        weights: list[Weight] = []
        products: list[Product] = []
        for path, matrix in matrices.items():
            inputs = sides(matrix)[0]
            blocks, shape = inputs // block, (inputs // block, block * (block - 1) // 2)
            name = f"{path}.oft_R.default.weight"
            weights.append(Weight(name, shape, "adapter", "factor", matrix.layer))
            powers = (TERMS - 2) * blocks * block**3
            products.append(Product(path, matrix.layer, powers, once=True, gradients=2))
            turned = inputs * block
            products.append(
                Product(path, matrix.layer, turned, hidden=True, gradients=1, before=True)
            )
        told = tuple(sorted(settings.items()))
        return Adapter(self.name, told, tuple(matrices), tuple(weights), tuple(products))

    def attach(self, module: nn.Module, adapter: Adapter) -> nn.Module:
        """The module with the rotations in it, in place, all identities."""
        from .peft_layers import injected

        return injected(module, self.peft_config(adapter, False))

    def peft_config(self, adapter: Adapter, transposed: bool) -> PeftConfig:
        """What peft is told."""
        from peft import OFTConfig

        return OFTConfig(
            oft_block_size=int(dict(adapter.settings)["block"]),
            target_modules=list(adapter.wraps),
            use_cayley_neumann=True,
            num_cayley_neumann_terms=TERMS,
        )

"""RAPL: the energy counters of Intel and AMD processors, as the kernel shows them.

`/sys/class/powercap/intel-rapl:N` is a package, `intel-rapl:N:M` a part of one. Packages are
summed, with a package's `dram` where it has a counter of its own. Counters are microjoules and wrap
around at `max_energy_range_uj`. Since 2020 only root may read them (CVE-2020-8694).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .meter import Facts, MeterSource

POWERCAP: Final = Path("/sys/class/powercap")
IDLE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Domain:
    """One counter: its folder, name, and where it wraps around."""

    folder: Path
    name: str
    range_uj: int

    def microjoules(self) -> int:
        """The counter as it stands."""
        return int((self.folder / "energy_uj").read_text())


def rapl_domains(powercap: Path = POWERCAP) -> tuple[Domain, ...]:
    """The counters that count towards the total; empty where there are none or they are closed."""
    found = []
    for folder in sorted(powercap.glob("*-rapl:*")):
        domain = _domain(folder)
        part = folder.name.count(":") > 1
        if domain is not None and (domain.name == "dram" if part else domain.name != "psys"):
            found.append(domain)
    return tuple(found)


class RaplMeter:
    """Joules of the whole processor: read it at least once a wrap-around (a minute or more).

    Args:
        domains: from `rapl_domains`, at least one.
        sleep, clock: how to wait while the idle draw is taken.
    """

    name = "rapl"
    source: MeterSource | None = "measured"
    reason: str | None = None
    block_s = 0.5  # it refreshes every millisecond

    def __init__(
        self,
        domains: Sequence[Domain],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._domains = tuple(domains)
        self._last = [domain.microjoules() for domain in self._domains]
        self._total_uj = 0
        self._sleep = sleep
        self._clock = clock

    def joules(self) -> float:
        """Energy of all packages since the meter was made."""
        for i, domain in enumerate(self._domains):
            now = domain.microjoules()
            step = now - self._last[i]
            self._total_uj += step if step >= 0 else step + domain.range_uj
            self._last[i] = now
        return self._total_uj / 1e6

    def idle_watts(self) -> float:
        """Draw while this process sleeps; whatever else runs on the host is in it."""
        before, started = self.joules(), self._clock()
        self._sleep(IDLE_SECONDS)
        return (self.joules() - before) / (self._clock() - started)

    def assumptions(self) -> Facts:
        """Which counters are summed."""
        return (("counters", "+".join(domain.name for domain in self._domains)),)


def _domain(folder: Path) -> Domain | None:
    try:
        domain = Domain(
            folder,
            (folder / "name").read_text().strip(),
            int((folder / "max_energy_range_uj").read_text()),
        )
        domain.microjoules()
    except OSError:
        return None  # closed to this user, or a control group without a counter
    return domain

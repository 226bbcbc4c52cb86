"""Whether a C++ compiler works here that torch.compile can use, found out once by compiling.

It must find Python's headers and OpenMP: what torch's inductor writes for a CPU needs both.
"""

from __future__ import annotations

import os
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

PROGRAM: Final = """
#include <Python.h>
#include <omp.h>
extern "C" int threads() { return omp_get_max_threads(); }
"""
PATIENCE_S: Final = 60.0


def compiler() -> str:
    """The command that inductor calls."""
    return os.environ.get("CXX", "g++")


@cache
def compiler_version() -> str:
    """What the compiler calls itself; `absent` where there is none."""
    try:
        done = _run([compiler(), "--version"])
    except (OSError, subprocess.TimeoutExpired):
        return "absent"
    return done.stdout.partition("\n")[0] or "absent"


@cache
def compiler_problem() -> str | None:
    """Why the compiler cannot be used; None: it can."""
    flags = ["-x", "c++", "-std=c++17", "-shared", "-fPIC", "-fopenmp"]
    headers = f"-I{sysconfig.get_path('include')}"
    with tempfile.TemporaryDirectory() as folder:
        out = ["-o", str(Path(folder) / "probe.so")]
        try:
            done = _run([compiler(), *flags, headers, "-", *out], PROGRAM)
        except (OSError, subprocess.TimeoutExpired) as error:
            return f"`{compiler()}` does not run ({error})"
    if done.returncode == 0:
        return None
    wrong = [line for line in done.stderr.splitlines() if "error" in line] or ["it failed"]
    return f"`{compiler()}` does not compile ({wrong[0].strip()})"


def _run(command: list[str], text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=text, timeout=PATIENCE_S, capture_output=True, text=True, check=False
    )

"""Shipping a searched point: written for its target, and proved before it is handed over."""

from .export import export_trial
from .verify import verify_export

__all__ = ["export_trial", "verify_export"]

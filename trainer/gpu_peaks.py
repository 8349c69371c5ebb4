"""What GPUs can compute at most, by name. Imports no torch."""

from __future__ import annotations

# Dense bf16 peak in FLOP/s, by a part of the name that the driver reports (vendor data sheets).
PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
    "L4": 121e12,
}


def bf16_peak(name: str) -> float | None:
    """Dense bf16 peak in FLOP/s of a GPU of this name, or None if it is not known."""
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)

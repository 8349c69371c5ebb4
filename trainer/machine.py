"""What a spec asks of the machine, checked before anything is built."""

from __future__ import annotations

import shutil

from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder import AsyncIOBuilder

from trainer.errors import UnusableSpecError
from trainer.spec import JobSpec

_COMPILERS = ("c++", "g++", "clang++")


def refuse_what_the_machine_lacks(spec: JobSpec) -> None:
    """Raise UnusableSpecError for the first thing that this machine cannot do, naming the field and the remedy."""
    parallel = spec.parallel
    has_compiler = any(shutil.which(name) for name in _COMPILERS)
    if parallel.precision == "fp16" and not get_accelerator().is_fp16_supported():
        raise UnusableSpecError(
            "parallel.precision fp16 is not supported by this machine's processor; use amp_bf16, bf16 or fp32"
        )
    if parallel.compile and not has_compiler:
        raise UnusableSpecError("parallel.compile needs a C++ compiler, such as Debian's g++, and there is none here")
    if "nvme" in (parallel.offload_optimizer, parallel.offload_parameters):
        _refuse_nvme_without_its_operator(has_compiler=has_compiler)


def _refuse_nvme_without_its_operator(*, has_compiler: bool) -> None:
    """DeepSpeed compiles its asynchronous file access on first use."""
    if not has_compiler or shutil.which("ninja") is None:
        raise UnusableSpecError("offload to NVMe needs a C++ compiler and ninja (Debian: g++ ninja-build)")
    if not AsyncIOBuilder().is_compatible():
        raise UnusableSpecError("offload to NVMe needs libaio with its header (Debian: libaio-dev)")

"""The DeepSpeed configuration of a job: a short file from `ds_configs/` with its `auto` values filled from the spec."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path
from typing import Any

from trainer.errors import UnusableSpecError
from trainer.spec import JobSpec, ParallelSpec

# These mean the same as fields of the spec, which alone may set them.
_FROM_SPEC = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "torch_autocast",
    "bf16",
    "fp16",
)
_SPEC_ONLY = ("optimizer", "scheduler")
_OFFLOADS = {"optimizer": "offload_optimizer", "parameters": "offload_param"}


class DeepSpeedConfigError(UnusableSpecError):
    """A DeepSpeed JSON file cannot be used; the text names the key."""


def build_config(spec: JobSpec, *, world_size: int, micro_size: int) -> dict[str, Any]:
    """The dictionary for `deepspeed.initialize`.

    Raises:
        DeepSpeedConfigError: `parallel.deepspeed_config` is missing, no JSON, or sets what the spec decides.
    """
    config = _template(spec.parallel)
    _refuse_settings_of_the_spec(config, path=spec.parallel.deepspeed_config)
    zero = config.setdefault("zero_optimization", {"stage": 0})
    precision = spec.parallel.precision
    zero["stage"] = _stage(zero.get("stage", 0), spec.parallel, world_size=world_size)
    for section in _OFFLOADS.values():
        if zero.get(section, {}).get("nvme_path") == "auto":
            zero[section]["nvme_path"] = spec.parallel.nvme_path
    config |= {
        "train_batch_size": spec.batch.global_size,
        "train_micro_batch_size_per_gpu": micro_size,
        "gradient_accumulation_steps": spec.batch.global_size // (micro_size * world_size),
        # Under stage 0 the optimizer clips (`trainer.gradient_norm`), as it has to take the norm anyhow.
        "gradient_clipping": (spec.optim.clip_grad_norm or 0.0) if zero["stage"] else 0.0,
        "torch_autocast": {"enabled": precision == "amp_bf16", "dtype": "bfloat16"},
        "bf16": {"enabled": precision == "bf16"},
        "fp16": {"enabled": precision == "fp16", "initial_scale_power": 16, "loss_scale_window": 1000},
        # torch's own optimizers keep their exact arithmetic also where their state is offloaded.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }
    return config


def _stage(asked: int, parallel: ParallelSpec, *, world_size: int) -> int:
    """The ZeRO stage that does what `asked` is for."""
    if parallel.precision in ("bf16", "fp16"):
        # DeepSpeed 0.19 takes a dummy optimizer step at the start of low-precision stage 0, which moves the weights.
        return max(1, asked)
    nothing_to_shard = world_size == 1 and asked <= 2
    if nothing_to_shard and parallel.offload_optimizer == "none" and parallel.deepspeed_config is None:
        return 0  # saves ZeRO's second copy of the weights, and the copies of gradients
    return asked


def _template(parallel: ParallelSpec) -> dict[str, Any]:
    if parallel.deepspeed_config is not None:
        return _read(Path(parallel.deepspeed_config))
    shipped = importlib.resources.files("ds_configs") / f"zero{parallel.zero_stage}.json"
    config: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    for ours, section in _OFFLOADS.items():
        device = getattr(parallel, f"offload_{ours}")
        if device != "none":
            config["zero_optimization"][section] = {"device": device}
        if device == "nvme":
            config["zero_optimization"][section]["nvme_path"] = parallel.nvme_path
    return config


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeepSpeedConfigError(f"parallel.deepspeed_config: cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise DeepSpeedConfigError(f"parallel.deepspeed_config: {path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise DeepSpeedConfigError(f"parallel.deepspeed_config: {path} must hold a JSON object")
    return config


def _refuse_settings_of_the_spec(config: dict[str, Any], *, path: str | None) -> None:
    for key in _FROM_SPEC:
        value = config.get(key, "auto")
        inner = value.get("enabled", "auto") if isinstance(value, dict) else value
        if inner != "auto":
            raise DeepSpeedConfigError(
                f'parallel.deepspeed_config: {path} sets {key} to {value!r}; leave it out or write "auto", '
                f"the job spec decides it"
            )
    for key in _SPEC_ONLY:
        if key in config:
            raise DeepSpeedConfigError(
                f"parallel.deepspeed_config: {path} has a section {key!r}; "
                f"set optim and schedule in the job spec instead"
            )

"""The engine that the settings ask for."""

from __future__ import annotations

import sys

from service.launchers.base import Launcher
from service.launchers.inherited import child_environment, needed_everywhere
from service.launchers.local import LocalLauncher
from service.settings import Settings


def make_launcher(settings: Settings) -> Launcher:
    """The engine of `ATTUNE_ENGINE`.

    Raises:
        EngineRefused: it is not installed, or must not be used as it is set up.
    """
    match settings.engine:
        case "ray":
            from service.launchers.ray.launcher import RayLauncher

            return RayLauncher(
                address=settings.ray_address,
                namespace=settings.ray_namespace,
                token_file=settings.ray_token_file,
                slots_per_node=settings.cpu_slots,
                lost_after_s=settings.ray_lost_after_s,
                weights_dir=settings.weights_dir,
                worker_environment=needed_everywhere(settings),
            )
        case "slurm":
            from service.launchers.slurm import SlurmLauncher

            return SlurmLauncher(
                partition=settings.slurm_partition,
                account=settings.slurm_account,
                extra_arguments=settings.slurm_arguments,
                slots_per_node=settings.cpu_slots,
                python=settings.slurm_python or sys.executable,
                weights_dir=settings.weights_dir,
                worker_environment=needed_everywhere(settings),
            )
        case "local":
            return LocalLauncher(
                cpu_slots=settings.cpu_slots,
                weights_dir=settings.weights_dir,
                niceness=settings.job_niceness,
                environment=child_environment(settings),
            )

"""LP-FT's first half: a linear probe on the starting tower's features becomes the head.

Kumar et al. 2022, https://arxiv.org/abs/2202.10054.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor

from dali_pipelines.loader import Batch
from dali_pipelines.manifest import Manifest
from trainer import distributed
from trainer.errors import UnusableDataError
from trainer.evaluation.features import weight_dtype
from trainer.evaluation.linear_probe import LP_FT_STRENGTHS, SweptProbe, sweep_logistic
from trainer.evaluation.passes import Pass, over_dataset
from trainer.evaluation.protocol import aligned
from trainer.model_types import ClassifierModel
from trainer.spec import ClassificationObjective, JobSpec

_Samples = tuple[Tensor, np.ndarray]  # features (N, F) on the CPU, and labels (N,)


def init_probe_head(
    classifier: ClassifierModel,
    *,
    train: Manifest,
    validation: Manifest | None,
    spec: JobSpec,
    file: Path | None = None,
) -> None:
    """Overwrite the head with a linear probe that `spec.objective.probe` describes; the same on every rank.

    What the head sees is computed once, without augmentation, each rank doing its share; rank 0 fits. The strength is
    chosen on the validation data, or else on a part of the training data, after which all of them make the probe.

    Args:
        classifier: changed in place.
        train: training data.
        validation: held-out data, or None.
        spec: the job.
        file: where the probe is kept for the job's later attempts, which read it instead of fitting again.

    Raises:
        UnusableDataError: the data cannot make a probe.
    """
    assert isinstance(spec.objective, ClassificationObjective)
    kept = None if file is None else distributed.from_rank_0(lambda: load_file(file) if file.exists() else None)
    if kept is None:
        samples = head_inputs(classifier, train, dataset="train", spec=spec)
        judges = None if validation is None else head_inputs(classifier, validation, dataset="validation", spec=spec)
        kept = distributed.from_rank_0(lambda: _fitted(samples, judges, spec=spec, train=train, file=file))
    classifier.module.head.load_state_dict(kept)


def head_inputs(classifier: ClassifierModel, manifest: Manifest, *, dataset: str, spec: JobSpec) -> _Samples:
    """What the head sees of each labelled image, (N, F) on the CPU, and its label by the classifier's classes.

    All ranks must call it; all get the same.
    """
    labels_n = aligned(manifest, classifier.class_names, dataset=dataset).labels
    module, dtype = classifier.module, weight_dtype(classifier.module)
    home, device = next(module.parameters()).device, distributed.device()
    run = Pass(
        device,
        rank=dist.get_rank() if dist.is_initialized() else 0,
        world_size=dist.get_world_size() if dist.is_initialized() else 1,
        batch_size=spec.evaluation.batch_size,
        num_threads=spec.data.decoder.num_threads,
        on_bad_sample=spec.data.on_bad_sample,
    )

    def features(batch: Batch) -> Tensor:
        return module.features(batch.images.to(dtype)).float()

    module.to(device)
    features_nf, rows = over_dataset(classifier, features, manifest, run)
    module.to(home)
    labels = labels_n[rows]
    return features_nf.cpu()[torch.from_numpy(labels >= 0)], labels[labels >= 0]


def held_out_rows(labels_n: np.ndarray, *, share: float, seed: int) -> np.ndarray:
    """Which samples to hold out: (N,) bool, `share` of each class, but at least one and not all of them.

    A class of one sample is left whole.

    Raises:
        UnusableDataError: no class has a sample to spare.
    """
    generator = np.random.Generator(np.random.Philox(seed))
    held_out = np.zeros(len(labels_n), dtype=bool)
    for label in np.unique(labels_n):
        rows = generator.permutation(np.flatnonzero(labels_n == label))
        if len(rows) > 1:
            held_out[rows[: min(max(round(share * len(rows)), 1), len(rows) - 1)]] = True
    if not held_out.any():
        raise UnusableDataError(
            "objective.probe has no data to choose its strength by: each class has one training image only;"
            " name data.validation"
        )
    return held_out


def _fitted(
    samples: _Samples, judges: _Samples | None, *, spec: JobSpec, train: Manifest, file: Path | None
) -> dict[str, Tensor]:
    """The probe as a head's state dict, written to `file` so that a reader sees all of it or none."""
    weight_cf, bias_c = _fit(samples, judges, spec=spec, train=train)
    state = {"weight": weight_cf.contiguous(), "bias": bias_c.contiguous()}
    if file is not None:
        partial = file.with_name(f".{file.name}.{os.getpid()}")
        save_file(state, partial)
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(file)
    return state


def _fit(samples: _Samples, judges: _Samples | None, *, spec: JobSpec, train: Manifest) -> tuple[Tensor, Tensor]:
    """Weight (C, F) and bias (C,) of the probe."""
    features_nf, labels_n = samples
    num_classes, settings = len(train.class_names), spec.objective.probe
    strengths = settings.strengths or LP_FT_STRENGTHS

    def sweep(rows: np.ndarray, judges: _Samples, strengths: tuple[float, ...]) -> SweptProbe:
        return sweep_logistic(
            features_nf.numpy()[rows],
            labels_n[rows],
            held_out_features_md=judges[0],
            held_out_labels_m=judges[1],
            strengths=strengths,
            max_iterations=settings.max_iterations,
            num_classes=num_classes,
        )

    everything = np.ones(len(labels_n), dtype=bool)
    if judges is not None:
        chosen = probe = sweep(everything, judges, strengths)
    else:
        held_out = held_out_rows(labels_n, share=settings.held_out, seed=spec.seed)
        judges = (features_nf[torch.from_numpy(held_out)], labels_n[held_out])
        chosen = sweep(~held_out, judges, strengths)
        probe = sweep(everything, judges, (chosen.strength,))
    found = (
        f"C {chosen.strength:g} of {len(strengths)}, {100 * chosen.accuracy:.2f} % of {len(judges[1])} held-out images"
    )
    print(f"linear probe: {found}", flush=True)
    return probe.weight_cd, probe.bias_c

"""What to train for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from trainer.spec.base import NonNegativeFloat, PositiveFloat, PositiveInt, Section
from trainer.spec.model import ModelSpec


class _PairObjective(Section):
    loss: Literal["info_nce", "siglip", "cross_entropy"] = "info_nce"
    """`info_nce`: symmetric cross-entropy over the batch (https://arxiv.org/abs/2103.00020); `siglip`: a sigmoid for
    each pair (https://arxiv.org/abs/2303.15343), with a logit bias that starts at -10 where the model has none;
    `cross_entropy`: images against the texts of all classes, one template drawn for each class and step (FLYP's
    `ce_ablation`); it needs class names."""
    same_class: Literal["negative", "positive", "ignore"] = "negative"
    """What another sample of the same class (where the data have no classes: with the same caption or image) in the
    batch is: `negative`, as FLYP and CLIP were trained; `positive`, with the target spread over all of them, which is
    UniCL (https://arxiv.org/abs/2204.03610); `ignore` leaves it out of the denominator. Where there are classes, a
    sample without one is the same as itself only."""
    feature_cache: bool = False
    """Contrast the whole global batch, whatever the micro-batch: features are computed once without gradients, and
    again with the gradient of each (GradCache, https://arxiv.org/abs/2101.06983). Costs one more forward pass, and
    memory for the images of a device's share of the global batch."""
    initial_logit_scale: PositiveFloat | None = None
    """exp(logit_scale) to start from, such as 14.2857 (1 / 0.07); None: the model's own."""


class ContrastiveObjective(_PairObjective):
    """Images against their captions, over the features of all ranks (Radford et al. 2021,
    https://arxiv.org/abs/2103.00020)."""

    name: Literal["contrastive"] = "contrastive"
    max_logit_scale: PositiveFloat | None = 100.0
    """Upper limit of exp(logit_scale), applied after each step; None leaves it free."""


class ClassPromptsObjective(_PairObjective):
    """FLYP: InfoNCE between images and prompts of their class, one template drawn for each sample
    (Goyal et al. 2023, https://arxiv.org/abs/2212.00638). The classifier is rebuilt from the tuned text tower."""

    name: Literal["class_prompts"] = "class_prompts"
    max_logit_scale: PositiveFloat | None = None
    """Upper limit of exp(logit_scale); FLYP leaves it free."""


class ProbeSpec(Section):
    """A linear probe on cached, un-augmented features: logistic regression with L2, its strength chosen on held-out
    data (Kumar et al. 2022, https://arxiv.org/abs/2202.10054)."""

    strengths: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] | None = None
    """Values of C to try, or None for LP-FT's 50 from 1e-7 to 1e2."""
    max_iterations: PositiveInt = 200
    """Most iterations for each."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of each class of the training data that chooses C where there are no validation data; all of them then make
    the probe."""


class ClassificationObjective(Section):
    """Cross-entropy of a linear head on the image tower's features."""

    name: Literal["classification"] = "classification"
    head: Literal["zero_shot", "fresh", "probe", "keep"] = "zero_shot"
    """`zero_shot`: the head starts from the text tower's class embeddings; `fresh`: small random weights; `probe`: from
    a linear probe (LP-FT); `keep`: the trained head of the classifier that `model.name` is an export of, whose classes
    must be those of the training data (FT-CLIP's second step)."""
    features: Literal["pooled", "mean_patches", "projected"] = "pooled"
    """What the head sees. `pooled`: the tower's output before CLIP's projection. `mean_patches`: the mean of the patch
    tokens through a fresh layer norm, without the class token (FT-CLIP). `projected`: the unit-norm embedding in the
    shared space (WiSE-FT)."""
    head_init_scale: PositiveFloat = 1e-3
    """Scale of a fresh head's first weights (truncated normal of std 0.02) and biases."""
    probe: ProbeSpec = ProbeSpec()
    """The probe behind `head: probe`."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Probability mass spread over all classes."""
    l2_sp: NonNegativeFloat = 0.0
    """Pull of all but the head towards the starting weights: this times the squared distance joins the loss, as in
    LP-FT; L2-SP's paper has half of it (https://arxiv.org/abs/1802.01483)."""


class DistillationObjective(Section):
    """An image-text student learns from a teacher's embeddings of the same samples (ITRA's family)."""

    name: Literal["distillation"] = "distillation"
    loss: Literal[
        "simreg",
        "simreg_l1",
        "simreg_smooth_l1",
        "vicreg",
        "barlow_twins",
        "rkd",
        "compress_1q",
        "compress_2q",
        "seed",
        "dino",
        "proto_cpc",
    ] = "simreg"
    """How student and teacher embeddings are compared. `simreg` (https://arxiv.org/abs/2201.05131), also as L1 and
    smooth L1; `vicreg` (https://arxiv.org/abs/2105.04906); `barlow_twins` (https://arxiv.org/abs/2103.03230); `rkd`,
    over the pairs and triples of a micro-batch (https://arxiv.org/abs/1904.05068); CompRess with one queue or two
    (https://arxiv.org/abs/2010.14713); `seed` (https://arxiv.org/abs/2101.04731); `dino`
    (https://arxiv.org/abs/2104.14294) and `proto_cpc` (https://openreview.net/forum?id=8la28hZOwug) over fixed random
    prototypes."""
    teacher: ModelSpec
    """The teacher, frozen: an image-text model. Its embedding must be as large as the student's, but for `rkd` and
    `compress_2q`."""
    towers: Literal["image", "text", "both"] = "image"
    """Whose embeddings are compared."""
    weight: PositiveFloat = 1.0
    """Weight of the distillation loss."""
    contrastive_weight: NonNegativeFloat = 0.0
    """Weight of InfoNCE between the student's own towers, beside it; it needs captions or classes. At 0, a tower that
    `towers` does not compare stays frozen."""
    temperature: PositiveFloat = 0.04
    """Temperature of the teacher's distribution (DINO, ProtoCPC, SEED), and of both in CompRess."""
    student_temperature: PositiveFloat = 0.1
    """Temperature of the student's distribution (DINO, ProtoCPC, SEED)."""
    queue_size: PositiveInt = 4096
    """Embeddings remembered as anchors (SEED, CompRess)."""
    num_prototypes: PositiveInt = 4096
    """Prototypes (DINO, ProtoCPC), unit vectors drawn by the seed; ITRA has 65536, and trains them."""
    rkd_distance_weight: NonNegativeFloat = 0.5
    """Weight of RKD's distances."""
    rkd_angle_weight: NonNegativeFloat = 1.0
    """Weight of RKD's angles."""
    max_logit_scale: PositiveFloat | None = 100.0
    """Upper limit of exp(logit_scale)."""


Objective = Annotated[
    ContrastiveObjective | ClassPromptsObjective | ClassificationObjective | DistillationObjective,
    Field(discriminator="name"),
]

import math

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from trainer.heads import ImageClassifier, init_fresh_head, init_zero_shot_head


def test_a_fresh_head_starts_at_the_logarithm_of_the_number_of_classes():
    torch.manual_seed(0)
    head = nn.Linear(768, 1000)
    init_fresh_head(head)
    loss = F.cross_entropy(head(torch.randn(32, 768)), torch.randint(1000, (32,)))
    assert abs(loss.item() - math.log(1000)) < 1e-3


def test_a_zero_shot_head_ranks_classes_as_the_zero_shot_classifier_does():
    torch.manual_seed(0)
    features, projection = torch.randn(64, 24), torch.randn(24, 12)
    class_weights = F.normalize(torch.randn(12, 10), dim=0)
    embeddings = features @ projection
    head = nn.Linear(24, 10)
    init_zero_shot_head(
        head,
        class_weights_dc=class_weights,
        projection_fd=projection,
        logit_scale=100.0,
        feature_norm=embeddings.norm(dim=-1).mean().item(),
    )
    logits = ImageClassifier(nn.Identity(), num_features=24, num_classes=10)
    logits.head = head
    zero_shot = 100 * F.normalize(embeddings, dim=-1) @ class_weights
    assert torch.equal(logits(features).argsort(-1), zero_shot.argsort(-1))
    assert 0.8 < (logits(features).std() / zero_shot.std()).item() < 1.25

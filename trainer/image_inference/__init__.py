"""Ask models about images, without the service and without a data set: `list_models`, `get_model`,
`inference_model`, `extract_features`.

After mmpretrain's `mmpretrain.apis` (https://github.com/open-mmlab/mmpretrain); the commands are `attune classify` and
`attune features`. Pixels take the way that they take in training and evaluation: `dali_pipelines`.
"""

from trainer.image_inference.ask import extract_features, inference_model
from trainer.image_inference.models import ImageModel, get_model, list_models

__all__ = ["ImageModel", "extract_features", "get_model", "inference_model", "list_models"]

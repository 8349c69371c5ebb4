"""Checks every image once before anything is trained, and turns samples into a manifest and a report.

    image_facts   one look at an image's bytes        perceptual   a hash that copies share
    scan          every image of a set, in threads    journal      so that it can go on where it was stopped
    check         from samples to a manifest          report       what is said of it
    duplicates    copies within sets and across

Imports neither DALI nor torch.
"""

from dali_pipelines.validation.check import Checked, OnBadSample, check, validate
from dali_pipelines.validation.report import BadSample, BadSamplesError, ValidationReport, report
from dali_pipelines.validation.scan import Look, scan

__all__ = [
    "BadSample",
    "BadSamplesError",
    "Checked",
    "Look",
    "OnBadSample",
    "ValidationReport",
    "check",
    "report",
    "scan",
    "validate",
]

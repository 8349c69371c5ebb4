"""Benchmarks of the demo by name, with their domains in the order of its tables and the folders that hold them."""

from __future__ import annotations

BENCHMARKS: dict[str, dict[str, str]] = {
    "OfficeHome": {"Art": "Art", "Clipart": "Clipart", "Product": "Product", "RealWorld": "RealWorld"},
    "Office-31": {"amazon": "amazon", "webcam": "webcam", "dslr": "dslr"},
    "VLCS": {"Caltech101": "Caltech101", "LabelMe": "LabelMe", "SUN09": "SUN09", "VOC2007": "VOC2007"},
    "PACS": {"art_painting": "art_painting", "cartoon": "cartoon", "photo": "photo", "sketch": "sketch"},
    "VisDA": {"validation": "validation"},
    "DomainNet": {
        "clipart": "clipart",
        "infograph": "infograph",
        "painting": "painting",
        "quickdraw": "quickdraw",
        "real": "real",
        "sketch": "sketch",
    },
    "TerraInc": {
        "L38": "location_38",
        "L43": "location_43",
        "L46": "location_46",
        "L100": "location_100",
    },
    "ImageNet-R": {"imagenet-r": "imagenet-r"},
}
"""Folder by the domain's name, by benchmark."""

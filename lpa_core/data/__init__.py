"""Data sets, their normalisation, and batches of them on the device."""

from lpa_core.data.cub import load_parts
from lpa_core.data.dataset import (
    DataError,
    Dataset,
    Parts,
    data_folder,
    duplicates,
    fingerprint,
)
from lpa_core.data.loaders import EvalLoader, TrainLoader
from lpa_core.data.own import own_label
from lpa_core.data.photographs import load_photographs, photograph_masks
from lpa_core.data.preprocess import (
    PREPROCESSES,
    Preprocess,
    build_preprocess,
    resize,
)
from lpa_core.data.sources import (
    SOURCES,
    Source,
    check_dataset,
    count_images,
    list_datasets,
    load,
    source_of,
)

__all__ = [
    "PREPROCESSES",
    "SOURCES",
    "DataError",
    "Dataset",
    "EvalLoader",
    "Parts",
    "Preprocess",
    "Source",
    "TrainLoader",
    "build_preprocess",
    "check_dataset",
    "count_images",
    "data_folder",
    "duplicates",
    "fingerprint",
    "list_datasets",
    "load",
    "load_parts",
    "load_photographs",
    "own_label",
    "photograph_masks",
    "resize",
    "source_of",
]

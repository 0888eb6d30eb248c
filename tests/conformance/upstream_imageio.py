"""Upstream's readers and writers."""

import numpy as np
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json, recursive_find_reader_writer_by_name
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIOWithReorient


def there_and_back(reader, images, output):
    """Read one case's images, and write their first channel as a mask."""
    kind = SimpleITKIOWithReorient if reader == "SimpleITKIOWithReorient" else recursive_find_reader_writer_by_name(reader)
    data, properties = kind().read_images(images)
    kind().write_seg(data[0].astype(np.uint8), output, properties)
    return {"data": data, "spacing": [float(value) for value in properties["spacing"]]}


def chosen_reader(dataset_json, example):
    return determine_reader_writer_from_dataset_json(dataset_json, example, verbose=False).__name__

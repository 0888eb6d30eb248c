"""How nnU-Net cuts a preprocessed array into blosc2's chunks and blocks. case_store.py cuts by a simpler rule; files of both are read alike."""

from collections.abc import Sequence
from math import prod

Shape = tuple[int, ...]


def comp_blosc2_params(image_size: Sequence[int], patch_size: Sequence[int], bytes_per_pixel: int = 4, max_block_nbytes: int = 128 * 1024,
                       max_chunk_nbytes: int = 6 * 1024**2, max_chunk_to_patch_ratio_per_axis: float | None = 1.5,
                       grow_singleton_patch_axes: bool = False) -> tuple[Shape, Shape]:
    """(block, chunk), each (1, z, y, x), for an image (C, z, y, x) of which patches (z, y, x) or (y, x) will be read.

    A chunk is made of whole blocks, or of what the limits leave of the last one: the image's size, `max_chunk_nbytes`, and the patch
    times `max_chunk_to_patch_ratio_per_axis` (None: no such limit). It does not grow along an axis on which patches are one voxel
    thick unless `grow_singleton_patch_axes`; two-dimensional patches never take more than one slice. ValueError for sizes and limits
    that cannot be met.
    """
    _refuse_unusable(image_size, patch_size, bytes_per_pixel, max_block_nbytes, max_chunk_nbytes, max_chunk_to_patch_ratio_per_axis)
    image = [int(n) for n in image_size[1:]]
    patch = [1] * (3 - len(patch_size)) + [int(n) for n in patch_size]
    ratio = max_chunk_to_patch_ratio_per_axis
    limits = image if ratio is None else [max(1, min(whole, int(ratio * read))) for whole, read in zip(image, patch)]
    growing = [axis for axis in range(3 - len(patch_size), 3) if patch[axis] > 1 or grow_singleton_patch_axes]
    block = _block(patch, image, limits, min(max_block_nbytes, max_chunk_nbytes) // bytes_per_pixel)
    chunk = _chunk(block, image, limits, growing, max_chunk_nbytes // bytes_per_pixel)
    return (1, *block), (1, *chunk)


def _refuse_unusable(image_size: Sequence[int], patch_size: Sequence[int], bytes_per_pixel: int, max_block_nbytes: int, max_chunk_nbytes: int,
                     ratio: float | None) -> None:
    if len(image_size) != 4 or len(patch_size) not in (2, 3):
        raise ValueError(f"Expected an image (C, z, y, x) and a patch (z, y, x) or (y, x), got {tuple(image_size)} and {tuple(patch_size)}.")
    if min(image_size) < 1 or min(patch_size) < 1:
        raise ValueError(f"Sizes must be at least 1, got the image {tuple(image_size)} and the patch {tuple(patch_size)}.")
    if min(bytes_per_pixel, max_block_nbytes, max_chunk_nbytes) <= 0:
        raise ValueError(f"Byte counts must be above 0, got {bytes_per_pixel} a voxel, {max_block_nbytes} a block, {max_chunk_nbytes} a chunk.")
    if ratio is not None and ratio < 1:
        raise ValueError(f"max_chunk_to_patch_ratio_per_axis is {ratio}; it must be at least 1, or None.")


def _block(patch: list[int], image: list[int], limits: list[int], most: int) -> list[int]:
    """The patch's powers of two, cut to the image, then halved on the axis that exceeds its limit most until `most` voxels hold it."""
    block = [min(1 << (read - 1).bit_length(), whole) for read, whole in zip(patch, image)]
    while prod(block) > most:
        if max(block) == 1:
            raise ValueError("The limit of bytes is below one voxel.")
        axis = max((axis for axis in range(3) if block[axis] > 1), key=lambda axis: (block[axis] / limits[axis], axis))
        block[axis] = 1 << ((block[axis] - 1).bit_length() - 1)  # the next power of two below it
    return block


def _chunk(block: list[int], image: list[int], limits: list[int], growing: list[int], most: int) -> list[int]:
    """`block`, grown a block at a time on the axis that covers least of its limit, the image's longest of equals, up to `most` voxels."""
    chunk = list(block)

    def grown(axis: int) -> list[int]:
        return [min(n + block[axis], limits[axis]) if i == axis else n for i, n in enumerate(chunk)]

    while axes := [axis for axis in growing if chunk[axis] < limits[axis] and prod(grown(axis)) <= most]:
        chunk = grown(min(axes, key=lambda axis: (chunk[axis] / limits[axis], -image[axis], axis)))
    return chunk

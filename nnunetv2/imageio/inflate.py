"""Compressed streams, inflated once, with their checksums, and never further than asked: a small file cannot fill the memory.

isal (Intel's library) inflates about twice as fast as zlib, which pays for the checks that ITK leaves out.
"""

import io
import zlib
from typing import BinaryIO

try:
    from isal import isal_zlib as codec
except ImportError:  # no wheel for this platform: slower, the same result
    codec = zlib

GZIP_MAGIC = b"\x1f\x8b"
GZIP, ZLIB = 31, 15  # zlib's wbits
MAX_RATIO = 1040  # deflate's own limit is 1032
COMPRESSION_LEVEL = 1  # masks are long runs of one value: higher levels take longer and save little
_INPUT_BYTES, _OUTPUT_BYTES = 2**18, 2**18  # read and inflated at a time: what stays in the cache


class DamagedStream(Exception):
    """What is wrong with a stream, as the end of a sentence that begins with the file's name."""


class Inflated:
    """Reads the content of a gzip (one member or several) or zlib stream that begins at `file`'s position."""

    def __init__(self, file: BinaryIO, wbits: int = GZIP):
        self._file, self._wbits = file, wbits
        self._decoder = codec.decompressobj(wbits)
        self._ended = False

    def read(self, n: int) -> bytes:
        """The next `n` bytes; fewer only where the content ends."""
        content = bytearray(n)
        return bytes(content[:self.readinto(content)])

    def readinto(self, target) -> int:
        """Fill a writable buffer; the number of bytes, lower than its length only where the content ends."""
        view = memoryview(target).cast("B")
        filled = 0
        while filled < len(view):
            piece = self._piece(min(len(view) - filled, _OUTPUT_BYTES))
            if not piece:
                break
            view[filled:filled + len(piece)] = piece
            filled += len(piece)
        return filled

    def _piece(self, limit: int) -> bytes:
        """1 to `limit` bytes; b"" at the end, when the checksum is known to be right."""
        try:
            while not self._ended:
                if self._decoder.eof:
                    self._next_member()
                    continue
                source = self._decoder.unconsumed_tail or self._file.read(_INPUT_BYTES)
                piece = self._decoder.decompress(source, limit)
                if piece:
                    return piece
                if not source and not self._decoder.eof:
                    raise DamagedStream("is damaged (truncated: its compressed data end too early)")
        except (codec.error, zlib.error, EOFError) as error:
            raise DamagedStream(f"is damaged ({str(error).strip() or 'its compressed data cannot be inflated'})") from error
        return b""

    def _next_member(self) -> None:
        rest = self._decoder.unused_data
        while not rest.strip(b"\0") and (more := self._file.read(_INPUT_BYTES)):  # tapes and some tools pad with zeros
            rest = more
        if not rest.strip(b"\0"):
            self._ended = True
        elif self._wbits == GZIP and (rest := rest + self._file.read(1)).startswith(GZIP_MAGIC):
            self._file.seek(-len(rest), io.SEEK_CUR)
            self._decoder = codec.decompressobj(self._wbits)
        else:
            raise DamagedStream("is damaged: other bytes follow the end of its compressed data")


def compress(content: bytes) -> bytes:
    """`content` as one gzip member."""
    return codec.compress(content, COMPRESSION_LEVEL, GZIP)

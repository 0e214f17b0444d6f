"""Bytes that headers of rare formats ask for: libsndfile reads what is left of a file that is cut off, without a word.

PAF, PVF, IRCAM and SD2 say no length: a file of those that is cut off is not noticed.
"""

import struct
from collections.abc import Callable
from typing import BinaryIO

MAT4_BYTES = (8, 4, 4, 2, 2, 1)  # of a number, by its code: double, float, int32, int16, uint16, uint8
MAT5_MATRIX = 14
SDS_HEADER, SDS_PACKET, SDS_DATA = 21, 127, 120  # bytes


def missing_bytes(file: BinaryIO, size: int) -> int:
    """How many bytes less a file has than its header says; 0 for a format that is not known here."""
    file.seek(0)
    head = file.read(512)
    for mark, needed in _NEEDED.items():
        if head.startswith(mark):
            try:
                return max(0, needed(file, head) - size)
            except (struct.error, IndexError):
                return 0  # no whole header, which libsndfile refuses
    return 0


def _avr(_: BinaryIO, head: bytes) -> int:
    stereo, bits = struct.unpack_from(">hh", head, 12)
    (frames,) = struct.unpack_from(">I", head, 26)
    return int(128 + frames * (2 if stereo else 1) * (bits // 8))


def _mpc2k(_: BinaryIO, head: bytes) -> int:
    (frames,) = struct.unpack_from("<I", head, 30)
    return int(42 + frames * 2 * (2 if head[21] else 1))


def _wve(_: BinaryIO, head: bytes) -> int:
    return int(32 + struct.unpack_from(">I", head, 18)[0])


def _xi(_: BinaryIO, head: bytes) -> int:
    return int(338 + struct.unpack_from("<I", head, 298)[0])


def _sds(_: BinaryIO, head: bytes) -> int:
    """MIDI Sample Dump: 7 bits in a byte; packets of 120 bytes of samples and 7 more."""
    bits, length = head[6], head[10] | head[11] << 7 | head[12] << 14
    in_packet = SDS_DATA // -(-bits // 7)
    return SDS_HEADER + -(-length // in_packet) * SDS_PACKET


def _voc(file: BinaryIO, head: bytes) -> int:
    """Blocks with a kind of one byte, 0 at the end, and a length of three."""
    (place,) = struct.unpack_from("<H", head, 20)
    while True:
        file.seek(place)
        block = file.read(4)
        if len(block) < 4 or block[0] == 0:
            return int(place)
        place += 4 + int.from_bytes(block[1:], "little")


def _mat4(file: BinaryIO, head: bytes) -> int:
    """Matrices with a head of five numbers: type, rows, columns, imaginary part, length of the name."""
    order = "<" if head[:2] == b"\0\0" and head[4] else ">"
    place = 0
    while True:
        file.seek(place)
        matrix = file.read(20)
        if len(matrix) < 20:
            return place
        kind, rows, columns, imaginary, name = struct.unpack(f"{order}5I", matrix)
        if kind % 100 // 10 >= len(MAT4_BYTES):
            return place
        place += 20 + name + rows * columns * MAT4_BYTES[kind % 100 // 10] * (2 if imaginary else 1)


def _mat5(file: BinaryIO, head: bytes) -> int:
    """Elements with a type and a length, of 4 bytes each, filled up to 8; small ones of 8 bytes in all.

    Matrices are looked into: libsndfile writes their length 8 too large.
    """
    order, place, end = "<" if head[126:128] == b"IM" else ">", 128, 128
    while True:
        file.seek(place)
        element = file.read(8)
        if len(element) < 8:
            return end
        kind, length = struct.unpack(f"{order}II", element)
        end = place + 8 + (0 if kind == MAT5_MATRIX or kind >> 16 else length)
        place = end + -end % 8


_NEEDED: dict[bytes, Callable[[BinaryIO, bytes], int]] = {
    b"2BIT": _avr,
    b"\1\4": _mpc2k,
    b"ALawSoundFile**": _wve,
    b"Extended Instrument: ": _xi,
    b"\xf0\x7e": _sds,
    b"Creative Voice File\x1a": _voc,
    b"MATLAB 5.0": _mat5,
    b"\0\0\0\0\1\0\0\0\1\0\0\0": _mat4,
    b"\0\0\x03\xe8\0\0\0\1\0\0\0\1": _mat4,
}

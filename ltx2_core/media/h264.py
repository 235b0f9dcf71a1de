"""Reads and writes H.264 as MP4 stores it: each NAL unit after its length, parameter sets in the header.

A NAL unit is the smallest piece of an H.264 stream: a parameter set, or a part of a frame. Parameter sets
(SPS and PPS) hold the settings that decoding needs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SLICE_IDR, SPS, PPS = 5, 7, 8
"""Kinds of units: a slice of a frame that nothing before is needed for, and the two parameter sets."""
# An SPS has an id from 0 to 31 (H.264, section 7.4.2.1.1); x264 gives its PPS the same id.
_LAST_ID = 31


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """The H.264 parameter sets of a stream, from its ``avcC`` record (ISO 14496-15).

    ``sps`` and ``pps`` are the sets as bytes, ``head`` and ``tail`` the bytes of the record before and after
    them.
    """

    head: bytes
    sps: tuple[bytes, ...]
    pps: tuple[bytes, ...]
    tail: bytes = b""

    @classmethod
    def read(cls, data: bytes | None) -> Parameters | None:
        """Parse the bytes of an ``avcC`` record.

        Returns None if ``data`` is None or no such record, or if the record says that lengths of units do not
        take four bytes.
        """
        if not data or len(data) < 7 or data[0] != 1 or data[4] & 3 != 3:
            return None
        try:
            # The upper three bits of the number of SPS are reserved, and all set; that of PPS takes the whole
            # byte.
            sps, at = _sets(data, 6, data[5] & 31)
            pps, at = _sets(data, at + 1, data[at])
        except IndexError:
            return None
        return cls(head=data[:5], sps=sps, pps=pps, tail=data[at:])

    def free_id(self) -> int:
        """Return an id from 0 to 31 that none of these parameter sets has."""
        # The id follows the header byte of a unit, and in an SPS also three bytes of profile and level.
        used = {_exp_golomb(unit[4:]) for unit in self.sps} | {_exp_golomb(unit[1:]) for unit in self.pps}
        # From the top, because encoders number from 0 and a later packet may bring a set that the header
        # lacks.
        return next(number for number in range(_LAST_ID, -1, -1) if number not in used)

    def joined(self, units: list[bytes]) -> bytes:
        """Return an ``avcC`` record with these parameter sets, each kind followed by those among ``units``.

        ``units`` are NAL units, the pieces of an H.264 stream; those that are no parameter sets are ignored.
        """
        sps = (*self.sps, *(unit for unit in units if unit[0] & 31 == SPS))
        pps = (*self.pps, *(unit for unit in units if unit[0] & 31 == PPS))
        head = bytearray(self.head)
        for unit in sps[len(self.sps) :]:
            # Profile and level of the record are those of the most demanding set.
            head[1], head[3] = max(head[1], unit[1]), max(head[3], unit[3])
        # The reserved bits in front of the number of SPS are ones (ISO 14496-15).
        parts = [bytes(head), bytes([0xE0 | len(sps)])]
        parts += [len(unit).to_bytes(2, "big") + unit for unit in sps]
        parts += [bytes([len(pps)]), *(len(unit).to_bytes(2, "big") + unit for unit in pps)]
        return b"".join(parts) + self.tail


def stored_units(packet: bytes) -> Iterator[bytes]:
    """Yield the NAL units of a packet from an MP4 file, where a length of four bytes stands before each."""
    at = 0
    # A length at the very end has no unit after it, and belongs to a packet that was cut off.
    while at + 4 < len(packet):
        length = int.from_bytes(packet[at : at + 4], "big")
        yield packet[at + 4 : at + 4 + length]
        at += 4 + length


def encoded_units(packet: bytes) -> list[bytes]:
    """Split a packet from an encoder into its NAL units, before each of which it has a start code."""
    # A zero byte may belong to the start code that follows, and no unit ends in one.
    return [unit.rstrip(b"\0") for unit in packet.split(b"\0\0\1") if unit.strip(b"\0")]


def to_stored(units: list[bytes]) -> bytes:
    """Join NAL units to a packet for MP4: the length of each unit, in four bytes, stands before it."""
    return b"".join(len(unit).to_bytes(4, "big") + unit for unit in units)


def _sets(data: bytes, at: int, count: int) -> tuple[tuple[bytes, ...], int]:
    """Parse ``count`` parameter sets of an ``avcC`` record from byte ``at`` on.

    Returns the sets and the position after the last one. Raises IndexError if the record ends earlier.
    """
    sets = []
    for _ in range(count):
        length = data[at] << 8 | data[at + 1]
        sets.append(data[at + 2 : at + 2 + length])
        at += 2 + length
    return tuple(sets), at


def _exp_golomb(data: bytes) -> int:
    """Decode the number with which ``data`` begins, an exponential Golomb code (H.264, section 9.1)."""
    # Eight bytes are more than the code of any id needs: 255, the largest of a PPS, has 17 bits.
    bits = f"{int.from_bytes(data[:8].ljust(8, bytes(1)), 'big'):064b}"
    zeros = len(bits) - len(bits.lstrip("0"))
    return int(bits[zeros : 2 * zeros + 1] or "1", 2) - 1

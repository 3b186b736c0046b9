"""Files as they are after something has gone wrong."""

from collections.abc import Iterator


def damaged(whole: bytes, every: int) -> Iterator[bytes]:
    """The file with one bit flipped: in every so many bytes, and in every byte of its directory at the end."""
    places = sorted({*range(0, len(whole), every), *range(len(whole) - 1500, len(whole), 5)})
    for i, place in enumerate(places):
        yield whole[:place] + bytes([whole[place] ^ (1 << i % 8)]) + whole[place + 1 :]
    for length in range(0, len(whole), len(whole) // 20 + 1):
        yield whole[:length]

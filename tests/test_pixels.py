import os
import time

import pytest
import torch

from src.pixels import SPAN, PixelStore

SIZE = 3 * 4 * 4


@pytest.fixture
def decoded():
    """Decodes an example to pixels that say which it is, and keeps a list of what was decoded."""

    def decode(index):
        decode.calls.append(index)
        return torch.full((3, 4, 4), index % 251, dtype=torch.uint8), index % 7

    decode.calls = []
    return decode


def store(tmp_path, limit=10**9) -> PixelStore:
    return PixelStore(tmp_path, limit, workers=3)


def test_a_split_is_decoded_once_and_then_mapped(tmp_path, decoded):
    count = 2 * SPAN + 5
    split = store(tmp_path).split("a", count, decoded, "a")
    assert [len(part) for part in split.parts] == [SPAN, SPAN, 5]
    spans = [split.span(part) for part in split.parts]
    assert torch.cat([span.pixels[:, 0, 0, 0] for span in spans]).tolist() == [index % 251 for index in range(count)]
    assert torch.cat([span.labels for span in spans]).tolist() == [index % 7 for index in range(count)]
    again = store(tmp_path).split("a", count, decoded, "a")
    assert all(torch.equal(again.span(part).pixels, span.pixels) for part, span in zip(again.parts, spans))
    assert again.digest == split.digest and sorted(decoded.calls) == list(range(count))
    assert store(tmp_path).split("b", count, decoded, "b").digest == split.digest  # of what is seen, not where from
    assert len(decoded.calls) == 2 * count


def test_a_killed_run_loses_a_span_at_most(tmp_path, decoded):
    split = store(tmp_path).split("a", SPAN + 9, decoded, "a")
    split.span(split.parts[0])
    (file,) = tmp_path.rglob("*.safetensors")
    again = store(tmp_path).split("a", SPAN + 9, decoded, "a")
    for part in again.parts:
        again.span(part)
    assert len(decoded.calls) == SPAN + 9
    file.write_bytes(file.read_bytes()[:-1])
    assert again.span(again.parts[0]).labels.tolist() == [index % 7 for index in range(SPAN)]  # spoiled: made again


def test_the_longest_unused_makes_room_and_its_digest_stays(tmp_path, decoded):
    limited = store(tmp_path, limit=int(2.5 * SPAN * (SIZE + 8)))
    digests = {name: limited.split(name, SPAN, decoded, name).digest for name in "ab"}
    folders = {path: path.stat().st_mtime for path in tmp_path.iterdir() if path.is_dir()}
    for age, path in enumerate(sorted(folders, key=folders.get, reverse=True), start=1):
        os.utime(path, (time.time() - 100 * age,) * 2)
    limited.split("a", SPAN, decoded, "a")  # used again
    digests["c"] = limited.split("c", SPAN, decoded, "c").digest
    decoded.calls.clear()
    for name in "abc":
        assert limited.split(name, SPAN, decoded, name).digest == digests[name]
    assert not decoded.calls
    for name in "ac":
        split = limited.split(name, SPAN, decoded, name)
        split.span(split.parts[0])
    assert not decoded.calls
    split = limited.split("b", SPAN, decoded, "b")
    split.span(split.parts[0])
    assert len(decoded.calls) == SPAN


def test_a_split_that_can_never_fit_pushes_no_other_out(tmp_path, decoded):
    limited = store(tmp_path, limit=int(1.5 * SPAN * (SIZE + 8)))
    limited.split("small", SPAN, decoded, "small").digest  # noqa: B018
    large = limited.split("large", 3 * SPAN, decoded, "large")
    assert [len(large.span(part).labels) for part in large.parts] == [SPAN] * 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    none = store(tmp_path / "none", limit=0).split("a", SPAN, decoded, "a")
    assert len(none.span(none.parts[0]).labels) == SPAN and not list((tmp_path / "none").rglob("*.safetensors"))


def test_what_an_example_raises_is_raised(tmp_path):
    def broken(index):
        if index == 5:
            raise OSError("image 5 is truncated")
        return torch.zeros(3, 4, 4, dtype=torch.uint8), 0

    split = store(tmp_path).split("a", 9, broken, "a")
    with pytest.raises(OSError, match="image 5"):
        split.span(split.parts[0])
    assert not list(tmp_path.rglob("*.safetensors"))

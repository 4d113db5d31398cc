import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from src.models.clip.pixel_cache import SPAN, PixelStore

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
    split = store(tmp_path).split("a", lambda: count, decoded, "a")
    assert [len(part) for part in split.spans] == [SPAN, SPAN, 5]
    spans = [split.span(part) for part in split.spans]
    assert torch.cat([span.pixels[:, 0, 0, 0] for span in spans]).tolist() == [index % 251 for index in range(count)]
    assert torch.cat([span.labels for span in spans]).tolist() == [index % 7 for index in range(count)]
    again = store(tmp_path).split("a", lambda: count, decoded, "a")
    assert all(torch.equal(again.span(part).pixels, span.pixels) for part, span in zip(again.spans, spans))
    assert again.digest == split.digest and sorted(decoded.calls) == list(range(count))
    assert store(tmp_path).split("b", lambda: count, decoded, "b").digest == split.digest  # of what is seen, not where from
    assert len(decoded.calls) == 2 * count


def test_a_killed_run_loses_a_span_at_most(tmp_path, decoded):
    split = store(tmp_path).split("a", lambda: SPAN + 9, decoded, "a")
    split.span(split.spans[0])
    (file,) = tmp_path.rglob("*.safetensors")
    again = store(tmp_path).split("a", lambda: SPAN + 9, decoded, "a")
    for part in again.spans:
        again.span(part)
    assert len(decoded.calls) == SPAN + 9
    file.write_bytes(file.read_bytes()[:-1])
    assert again.span(again.spans[0]).labels.tolist() == [index % 7 for index in range(SPAN)]  # spoiled: made again


def room_for(splits: float) -> int:
    return int(splits * (SPAN * (SIZE + 8) + 1024))


def test_the_longest_unused_of_earlier_runs_makes_room_and_its_digest_stays(tmp_path, decoded):
    digests = {}
    for age, name in ((200, "a"), (100, "b")):
        split = store(tmp_path).split(name, lambda: SPAN, decoded, name)
        digests[name] = split.digest
        os.utime(split.folder, (time.time() - age,) * 2)
    split = store(tmp_path).split("a", lambda: SPAN, decoded, "a")
    split.span(split.spans[0])  # used again
    digests["c"] = store(tmp_path, room_for(2.5)).split("c", lambda: SPAN, decoded, "c").digest
    decoded.calls.clear()
    for name in "abc":
        assert store(tmp_path).split(name, lambda: SPAN, decoded, name).digest == digests[name]
    for name in "ac":
        split = store(tmp_path).split(name, lambda: SPAN, decoded, name)
        split.span(split.spans[0])
    assert not decoded.calls
    split = store(tmp_path).split("b", lambda: SPAN, decoded, "b")
    split.span(split.spans[0])
    assert len(decoded.calls) == SPAN


def test_splits_that_one_run_goes_through_do_not_push_one_another_out(tmp_path, decoded):
    run = store(tmp_path, room_for(2.5))
    splits = [run.split(name, lambda: SPAN, decoded, name) for name in "abc"]
    for _ in range(3):
        for split in splits:
            split.span(split.spans[0])
    assert len(decoded.calls) == (3 + 1 + 1) * SPAN  # the third has no room, and is decoded each time


def test_runs_that_make_room_side_by_side_do_not_disturb_one_another(tmp_path):
    pixels = torch.zeros(3, 4, 4, dtype=torch.uint8)

    def run(seed: int) -> int:
        limited = store(tmp_path, room_for(1.5))
        for name in range(4):
            split = limited.split(f"{seed} {name}", lambda: SPAN, lambda index: (pixels, index % 7), "")
            assert split.span(split.spans[0]).labels.tolist() == [index % 7 for index in range(SPAN)]
        return seed

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(run, range(4))) == list(range(4))


def test_what_is_known_of_a_split_is_not_asked_again(tmp_path, decoded):
    store(tmp_path).split("a", lambda: 9, decoded, "a").digest  # noqa: B018

    def never():
        raise AssertionError("the data was opened")

    again = store(tmp_path).split("a", never, never, "a")
    assert again.count == 9 and len(again.span(again.spans[0]).labels) == 9 and again.digest


def test_a_split_that_can_never_fit_pushes_no_other_out(tmp_path, decoded):
    limited = store(tmp_path, room_for(1.5))
    limited.split("small", lambda: SPAN, decoded, "small").digest  # noqa: B018
    large = limited.split("large", lambda: 3 * SPAN, decoded, "large")
    assert [len(large.span(part).labels) for part in large.spans] == [SPAN] * 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    none = store(tmp_path / "none", limit=0).split("a", lambda: SPAN, decoded, "a")
    assert len(none.span(none.spans[0]).labels) == SPAN and not list((tmp_path / "none").rglob("*.safetensors"))


def test_what_an_example_raises_is_raised(tmp_path):
    def broken(index):
        if index == 5:
            raise OSError("image 5 is truncated")
        return torch.zeros(3, 4, 4, dtype=torch.uint8), 0

    split = store(tmp_path).split("a", lambda: 9, broken, "a")
    with pytest.raises(OSError, match="image 5"):
        split.span(split.spans[0])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_digest_that_another_process_found_out_meanwhile_is_not_computed_again(tmp_path, decoded):
    """The processes of a group count a split's examples before they start, and one of them then scores it."""
    ours = store(tmp_path, limit=0).split("a", lambda: 9, decoded, "a")
    assert ours.count == 9
    theirs = store(tmp_path, limit=0).split("a", lambda: 9, decoded, "a").digest
    decoded.calls.clear()
    assert ours.digest == theirs and not decoded.calls  # though no pixels are kept

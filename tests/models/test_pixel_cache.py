import os
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from src.models.clip.pixel_cache import SPAN, PixelStore

SIZE = 3 * 4 * 4


@pytest.fixture
def decode():
    """Return a function that decodes an example to pixels that tell its number, and lists the numbers in `calls`."""

    def decode(index):
        decode.calls.append(index)
        return torch.full((3, 4, 4), index % 251, dtype=torch.uint8), index % 7

    decode.calls = []
    return decode


def store(tmp_path, limit=10**9) -> PixelStore:
    return PixelStore(tmp_path, limit, workers=3)


def test_a_split_is_decoded_once_and_then_mapped(tmp_path, decode):
    count = 2 * SPAN + 5
    split = store(tmp_path).split("a", lambda: count, decode, "a")
    assert [len(indices) for indices in split.spans] == [SPAN, SPAN, 5]
    spans = [split.span(indices) for indices in split.spans]
    assert torch.cat([span.pixels[:, 0, 0, 0] for span in spans]).tolist() == [index % 251 for index in range(count)]
    assert torch.cat([span.labels for span in spans]).tolist() == [index % 7 for index in range(count)]
    again = store(tmp_path).split("a", lambda: count, decode, "a")
    assert all(torch.equal(again.span(indices).pixels, span.pixels) for indices, span in zip(again.spans, spans))
    assert again.digest == split.digest and sorted(decode.calls) == list(range(count))
    assert store(tmp_path).split("b", lambda: count, decode, "b").digest == split.digest  # of what is seen, not where from
    assert len(decode.calls) == 2 * count


def test_a_killed_run_loses_a_span_at_most(tmp_path, decode):
    split = store(tmp_path).split("a", lambda: SPAN + 9, decode, "a")
    split.span(split.spans[0])
    (file,) = tmp_path.rglob("*.safetensors")
    again = store(tmp_path).split("a", lambda: SPAN + 9, decode, "a")
    for indices in again.spans:
        again.span(indices)
    assert len(decode.calls) == SPAN + 9
    file.write_bytes(file.read_bytes()[:-1])
    assert again.span(again.spans[0]).labels.tolist() == [index % 7 for index in range(SPAN)]  # spoiled: decoded again


def test_a_part_of_a_span_is_read_from_it_and_alone_where_it_is_not_kept(tmp_path, decode):
    split = store(tmp_path).split("a", lambda: SPAN + 9, decode, "a")
    part = split.span(range(SPAN + 3, SPAN + 5))
    assert part.labels.tolist() == [(SPAN + 3) % 7, (SPAN + 4) % 7] and sorted(decode.calls) == [SPAN + 3, SPAN + 4]
    whole = split.span(range(SPAN, SPAN + 9))
    assert len(whole.labels) == 9 and len(decode.calls) == 11
    again = split.span(range(SPAN + 3, SPAN + 5))
    assert torch.equal(again.pixels, part.pixels) and again.labels.tolist() == part.labels.tolist() and len(decode.calls) == 11


def room_for(splits: float) -> int:
    return int(splits * (SPAN * (SIZE + 8) + 1024))


def test_the_longest_unused_of_earlier_runs_makes_room_and_its_digest_stays(tmp_path, decode):
    digests = {}
    for age, name in ((200, "a"), (100, "b")):
        split = store(tmp_path).split(name, lambda: SPAN, decode, name)
        digests[name] = split.digest
        os.utime(split.folder, (time.time() - age,) * 2)
    split = store(tmp_path).split("a", lambda: SPAN, decode, "a")
    split.span(split.spans[0])  # used again
    digests["c"] = store(tmp_path, room_for(2.5)).split("c", lambda: SPAN, decode, "c").digest
    decode.calls.clear()
    for name in "abc":
        assert store(tmp_path).split(name, lambda: SPAN, decode, name).digest == digests[name]
    for name in "ac":
        split = store(tmp_path).split(name, lambda: SPAN, decode, name)
        split.span(split.spans[0])
    assert not decode.calls
    split = store(tmp_path).split("b", lambda: SPAN, decode, "b")
    split.span(split.spans[0])
    assert len(decode.calls) == SPAN


def test_splits_that_one_run_goes_through_do_not_push_one_another_out(tmp_path, decode):
    run = store(tmp_path, room_for(2.5))
    splits = [run.split(name, lambda: SPAN, decode, name) for name in "abc"]
    for _ in range(3):
        for split in splits:
            split.span(split.spans[0])
    assert len(decode.calls) == (3 + 1 + 1) * SPAN  # the third has no room, and is decoded each time


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


def test_count_and_digest_of_an_earlier_run_need_no_data(tmp_path, decode):
    store(tmp_path).split("a", lambda: 9, decode, "a").digest  # noqa: B018

    def never():
        raise AssertionError("the data was opened")

    again = store(tmp_path).split("a", never, never, "a")
    assert again.count == 9 and len(again.span(again.spans[0]).labels) == 9 and again.digest


def test_a_split_that_can_never_fit_pushes_no_other_out(tmp_path, decode):
    limited = store(tmp_path, room_for(1.5))
    limited.split("small", lambda: SPAN, decode, "small").digest  # noqa: B018
    large = limited.split("large", lambda: 3 * SPAN, decode, "large")
    assert [len(large.span(indices).labels) for indices in large.spans] == [SPAN] * 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1
    none = store(tmp_path / "none", limit=0).split("a", lambda: SPAN, decode, "a")
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


def test_a_digest_that_another_process_found_out_meanwhile_is_not_computed_again(tmp_path, decode):
    """The processes of a group count a split's examples before they start, and one of them then scores it."""
    ours = store(tmp_path, limit=0).split("a", lambda: 9, decode, "a")
    assert ours.count == 9
    theirs = store(tmp_path, limit=0).split("a", lambda: 9, decode, "a").digest
    decode.calls.clear()
    assert ours.digest == theirs and not decode.calls  # though no pixels are kept

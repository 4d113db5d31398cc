"""Make the demo's pre-trained CLIP: learn a small vocabulary, then contrast plain drawings with their captions.

    OMP_NUM_THREADS=1 python -m demo.pretrain --steps 10000 --batch 128 --output demo

(50 minutes on one core) writes `merges.txt.gz` (byte-pair merges in CLIP's own format) and `ViT-demo.safetensors`
(float16) to the output folder. Every image is new, and every class is known, so the text side is one caption of each
class rather than the batch's.
"""

import argparse
import gzip
import json
import math
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from pathlib import Path

import open_clip
import torch
import torch.nn.functional as F
from open_clip.tokenizer import SimpleTokenizer, bytes_to_unicode
from safetensors.torch import save_file
from torch import Generator, Tensor

from src.data.demo.tasks import DRAWN_TASKS, PLAIN

HERE = Path(__file__).parent
CONFIG = HERE / "ViT-demo.json"


def captions() -> list[list[str]]:
    """Return the three captions of each class, of all tasks in order."""
    return [[template.format(name) for template in task.templates] for task in DRAWN_TASKS for name in task.classes]


def learn_merges(texts: list[str], count: int) -> list[tuple[str, str]]:
    """Return the `count` most frequent byte-pair merges of `texts`, most frequent first; fewer if there are no more."""
    letters = bytes_to_unicode()
    words = Counter(word for text in texts for word in text.lower().replace(".", " .").split())
    spelled = {w: [letters[b] for b in w.encode()[:-1]] + [letters[w.encode()[-1]] + "</w>"] for w in words}
    merges: list[tuple[str, str]] = []
    while len(merges) < count:
        pairs = Counter()
        for word, pieces in spelled.items():
            for pair in pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word, pieces in spelled.items():
            joined, i = [], 0
            while i < len(pieces):
                step = 2 if tuple(pieces[i : i + 2]) == best else 1
                joined.append("".join(pieces[i : i + step]))
                i += step
            spelled[word] = joined
    return merges


def draw(count: int, device: torch.device, generator: Generator) -> tuple[Tensor, Tensor]:
    """Return `count` plain images, as many of each task, normalised as open_clip does, and their class numbers, (count,).

    Classes are numbered through all tasks.
    """
    images, numbers, first = [], [], 0
    for task in DRAWN_TASKS:
        labels = torch.randint(len(task.classes), (count // len(DRAWN_TASKS),), generator=generator, device=device)
        images.append(task.draw(labels, PLAIN, generator))
        numbers.append(labels + first)
        first += len(task.classes)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN, device=device)[:, None, None]
    std = torch.tensor(open_clip.OPENAI_DATASET_STD, device=device)[:, None, None]
    return (torch.cat(images).float() / 255 - mean) / std, torch.cat(numbers)


def contrastive_loss(logits: Tensor, numbers: Tensor) -> Tensor:
    """Return the mean of both directions of CLIP's loss, of logits (images, classes) and class numbers (images,).

    A caption may fit several images of the batch, or none.
    """
    positive = F.one_hot(numbers, logits.shape[1]).float()
    to_image = -(F.log_softmax(logits, 0) * positive).sum(0) / positive.sum(0).clamp_min(1)
    return (F.cross_entropy(logits, numbers) + to_image[positive.any(0)].mean()) / 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=10000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="a folder; demo/ replaces what ships")
    options = parser.parse_args()
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    generator = Generator(device).manual_seed(options.seed)

    texts = captions()
    config = json.loads(CONFIG.read_text())
    merge_count = config["text_cfg"]["vocab_size"] - 2 * 256 - 2  # beside all bytes, with and without a word's end, and two marks
    lines = ["#version: 0.2", *(" ".join(pair) for pair in learn_merges(list(chain.from_iterable(texts)), merge_count))]
    options.output.mkdir(parents=True, exist_ok=True)
    merges = options.output / "merges.txt.gz"
    merges.write_bytes(gzip.compress("\n".join(lines).encode(), mtime=0))
    tokenize = SimpleTokenizer(str(merges), context_length=config["text_cfg"]["context_length"])
    tokens = torch.stack([tokenize(of_class) for of_class in texts]).to(device)  # (classes, 3, context)

    model = open_clip.CLIP(**config).to(device)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.lr, betas=(0.9, 0.98))
    started = time.monotonic()
    with ThreadPoolExecutor(1) as executor:  # draws the next batch meanwhile
        next_batch = executor.submit(draw, options.batch, device, generator)
        for step in range(options.steps):
            images, numbers = next_batch.result()
            next_batch = executor.submit(draw, options.batch, device, generator)
            rate = min(1, (step + 1) / 200) * (0.5 + 0.5 * math.cos(math.pi * step / options.steps))
            for group in optimizer.param_groups:
                group["lr"] = options.lr * rate
            prompts = tokens[:, step % tokens.shape[1]]
            image_features = model.encode_image(images, normalize=True)
            text_features = model.encode_text(prompts, normalize=True)
            logits = image_features @ text_features.T * model.logit_scale.exp()
            loss = contrastive_loss(logits, numbers)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(0, math.log(100))
            if (step + 1) % 250 == 0 or step + 1 == options.steps:
                right = (logits.argmax(1) == numbers).float().mean().item()
                seconds = time.monotonic() - started
                print(f"step {step + 1} loss {loss.item():.3f} right {right:.3f} {seconds:.0f} s", flush=True)
    weights = {key: value.half().cpu().contiguous() for key, value in model.state_dict().items()}
    save_file(weights, options.output / "ViT-demo.safetensors")


if __name__ == "__main__":
    main()

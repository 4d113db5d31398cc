"""Make the text demo's pre-trained T5: teach it plain questions, one kind after the other.

    OMP_NUM_THREADS=1 python -m demo.pretrain_text --output demo

(7 minutes on one core) writes `t5-demo.json`, `t5-demo-tokenizer.json` and `t5-demo.safetensors` (float16) to the output
folder. Every question is new. Attention starts as a copier, and the first kind of question comes alone: facts are looked
up within 300 steps.
"""

import argparse
import json
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import T5Config, T5ForConditionalGeneration
from transformers.models.t5.modeling_t5 import T5Attention, T5DenseGatedActDense

from demo.plain_text import QUESTIONS, Repetition
from src.data.text.demo.tasks import WRITTEN_TASKS

CONFIG = Path(__file__).with_name("t5-demo.json")
PAD, END = 0, 1
LOOK_BACK, SHARPNESS = 4, 4.0
FIRST, NEXT = 300, 100  # steps before the second kind of question comes, and before each further one


def learn_words() -> Tokenizer:
    """Return the tokenizer of all words of the tasks' training examples and of the plain questions."""
    random = Random(0)
    examples = [task.example("train", index) for task in WRITTEN_TASKS for index in range(3000)]
    texts = [text for example in examples for text in (example.input, example.target, *example.choices)]
    texts += [text for draw in QUESTIONS for _ in range(3000) for text in draw(random)]
    texts.append(Repetition.request.format(""))
    split = pre_tokenizers.Whitespace()
    words = sorted({word for text in texts for word, _ in split.pre_tokenize_str(text)})
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate([*special, *words])}, unk_token="<unk>"))
    tokenizer.add_special_tokens(special)
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = split
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    tokenizer.enable_padding(pad_id=PAD, pad_token="<pad>")
    return tokenizer


def copier(config: T5Config) -> T5ForConditionalGeneration:
    """Return a new T5 whose attention copies: words find their like, and bring what stands beside it.

    Keys equal queries and outputs transpose values. The encoder's first four heads look one to four words back instead,
    and all four write in one subspace, so that what is found there does not depend on the distance.
    """
    model = T5ForConditionalGeneration(config)
    width, size = config.d_model, config.d_kv
    local = LOOK_BACK * size
    with torch.no_grad():
        for block in model.encoder.block:
            attention = block.layer[0].SelfAttention
            attention.v.weight[:local] = attention.v.weight[:size].repeat(LOOK_BACK, 1)
            _match(attention)
            attention.q.weight[:local] = 0
        for block in model.decoder.block:
            _match(block.layer[1].EncDecAttention)
        for attention in (module for module in model.modules() if isinstance(module, T5Attention)):
            attention.o.weight.copy_(attention.v.weight.T)
        bias = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight.zero_()  # (buckets, heads)
        bias[range(1, LOOK_BACK + 1), range(LOOK_BACK)] = SHARPNESS
    # A model built from a configuration ties its head to the embedding; this one only starts as its copy.
    model.lm_head.weight = nn.Parameter(model.shared.weight.detach() * width**-0.5)
    model.config.tie_word_embeddings = False
    for module in model.modules():
        if isinstance(module, T5DenseGatedActDense):
            module.act = nn.GELU("tanh")  # the same function in one operation, for speed
    return model


def _match(attention: T5Attention) -> None:
    """Make the keys equal the queries, such that a word's score with itself is about SHARPNESS."""
    attention.q.weight.normal_(std=(SHARPNESS / (attention.d_model * attention.key_value_proj_dim)) ** 0.5)
    attention.k.weight.copy_(attention.q.weight)


def batches(tokenizer: Tokenizer, seed: int, size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the tokens of questions, their mask and the tokens of answers, (size, tokens) each, -100 for padding."""
    random = Random(seed)
    draws = [*QUESTIONS, Repetition(sorted(word for word in tokenizer.get_vocab() if word.isalpha()))]
    for step in count():
        known = draws[: 1 if step < FIRST else 2 + (step - FIRST) // NEXT]
        asked, answers = zip(*(random.choice(known)(random) for _ in range(size)), strict=True)
        inputs, targets = tokenizer.encode_batch(asked), tokenizer.encode_batch(answers)
        labels = torch.tensor([encoding.ids for encoding in targets])
        mask = torch.tensor([encoding.attention_mask for encoding in inputs])
        yield torch.tensor([encoding.ids for encoding in inputs]), mask, labels.masked_fill(labels == PAD, -100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="a folder; demo/ replaces what ships")
    options = parser.parse_args()
    torch.manual_seed(options.seed)

    tokenizer = learn_words()
    config = json.loads(CONFIG.read_text()) | {"vocab_size": tokenizer.get_vocab_size()}
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / CONFIG.name).write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save(str(options.output / "t5-demo-tokenizer.json"))

    model = copier(T5Config(**config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    started = time.process_time()
    for step, (inputs, mask, labels) in zip(range(options.steps), batches(tokenizer, options.seed, options.batch)):
        rate = min(1, (step + 1) / 100, 2 - 2 * step / options.steps)
        for group in optimizer.param_groups:
            group["lr"] = options.lr * rate
        output = model(input_ids=inputs, attention_mask=mask, labels=labels)
        optimizer.zero_grad(set_to_none=True)
        output.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 250 == 0 or step + 1 == options.steps:
            right = ((output.logits.argmax(-1) == labels) | (labels < 0)).all(1).float().mean().item()
            seconds = time.process_time() - started
            print(f"step {step + 1} loss {output.loss.item():.3f} right {right:.3f} {seconds:.0f} s", flush=True)
    aliases = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    weights = {key: value.half().contiguous() for key, value in model.state_dict().items() if key not in aliases}
    save_file(weights, options.output / "t5-demo.safetensors")


if __name__ == "__main__":
    main()

"""A T5 from its files: the network without weights, the weights by their bare names, each once, and the tokenizer.

The checks at loading are those of a trap: transformers ties the output layer to the embedding whenever it is given the
occasion, and of T5 v1.1 and its kin these are two matrices.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from src.checkpoints.naming import without_prefix, without_wrappers
from src.checkpoints.opening import open_checkpoint
from src.errors import UserError, raise_any
from src.models.t5.files import ModelFiles
from src.models.t5.network import Network
from src.models.t5.tokens import PAD, Tokens, read_tokenizer
from src.runtime.untrusted import read_json
from src.state_dict import Lazy, StateDict, differences, outline, renamed

EMBEDDING, HEAD = "shared.weight", "lm_head.weight"
ALIASES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # further names of the embedding in some files
UNUSED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)  # in old files, and read by no T5
PREFIX = "transformer."  # of the names in files of the paper on merging in task subspaces
# What is read of a configuration; its other fields decide no answer.
GEOMETRY = (
    "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "feed_forward_proj",
    "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon", "dropout_rate",
    "pad_token_id", "eos_token_id", "decoder_start_token_id",
)  # fmt: skip
LARGEST = 2**20  # bytes of a configuration
MOST_BLOCKS = 1000


@dataclass(frozen=True, eq=False)
class LoadedT5:
    """A T5 in its parts.

    settings: what of its configuration decides its answers.
    weights: by the names of the network's parameters, in their order.
    """

    network: Network
    settings: Mapping[str, Any]
    weights: StateDict
    tokens: Tokens


def load_t5(files: ModelFiles, weights: StateDict | None = None) -> LoadedT5:
    """Return the model in these files.

    weights: in place of those in the files.

    Raise UserError if a file cannot be read, is of another kind of model, or does not fit the others.
    """
    settings = read_settings(files)
    name = files.weights if weights is None else "the pre-trained model"
    own = bare_names(name, open_checkpoint(files.weights) if weights is None else weights)
    settings = with_head(files, settings, own)
    own = bare_names(name, own, [HEAD] if settings["tie_word_embeddings"] else [])
    network = Network(build_module(files, settings))
    shapes = dict(network.module.named_parameters())
    raise_any(differences(str(name), own, str(files.config), shapes)[:3])
    tokens = read_tokenizer(files.tokenizer, settings["eos_token_id"], settings["vocab_size"])
    ordered = {key: outline(own)[key] for key in shapes}
    return LoadedT5(network, settings, Lazy(ordered, own.__getitem__), tokens)


def read_settings(files: ModelFiles) -> dict[str, Any]:
    """Return what is read of a configuration, the two fields on the output layer included where it has them.

    Raise UserError if it is none of a T5, or has other special tokens than a T5's.
    """
    fields = read_json(files.config, LARGEST)
    kind = fields.get("model_type", "t5") if isinstance(fields, dict) else type(fields).__name__
    if kind != "t5":
        raise UserError(f"{files.config} is of the kind {kind}, and t5 is read here; give a T5, T5 v1.1 or Flan-T5")
    settings = {"pad_token_id": PAD, "eos_token_id": 1, "decoder_start_token_id": PAD}
    settings |= {key: fields[key] for key in (*GEOMETRY, "tie_word_embeddings", "scale_decoder_outputs") if key in fields}
    tokens = [settings[key] for key in ("pad_token_id", "decoder_start_token_id", "eos_token_id")]
    if tokens[:2] != [PAD, PAD] or type(tokens[2]) is not int:
        raise UserError(
            f"{files.config} says pad_token_id={tokens[0]}, decoder_start_token_id={tokens[1]} and eos_token_id={tokens[2]}, and "
            f"a T5 pads and starts with {PAD}, and ends with one other token; get it again"
        )
    blocks = [settings.get(key) for key in ("num_layers", "num_decoder_layers")]
    if any(type(count) is int and not 0 < count <= MOST_BLOCKS for count in blocks):
        raise UserError(f"{files.config} asks for {' and '.join(map(str, blocks))} blocks; get it again")
    return settings


def with_head(files: ModelFiles, settings: dict[str, Any], weights: StateDict) -> dict[str, Any]:
    """Return settings with whether the output layer is tied to the embedding, and its inputs are scaled as in T5 v1.0.

    transformers writes that they are tied whatever the weights say; what it scales is then what the weights were trained
    with.

    Raise UserError if the weights contradict the configuration.
    """
    says_tied, says_scaled = settings.get("tie_word_embeddings"), settings.get("scale_decoder_outputs")
    is_tied = HEAD not in weights or (
        says_tied is not False and torch.equal(weights[HEAD], weights.get(EMBEDDING, weights[HEAD]))
    )
    is_scaled = says_scaled if says_scaled is not None else says_tied if says_tied is not None else is_tied
    if is_tied and says_tied is False:
        raise UserError(
            f"{files.weights} has no {HEAD}, and {files.config} says that it has one of its own; get both again from one model"
        )
    if is_scaled and not is_tied:
        raise UserError(
            f"{files.weights} has a {HEAD} of its own, and {files.config} says that it is {EMBEDDING}; if the model is a "
            "T5 v1.1 or its kin, write tie_word_embeddings: false there"
        )
    return {**settings, "tie_word_embeddings": is_tied, "scale_decoder_outputs": bool(is_scaled)}


def build_module(files: ModelFiles, settings: Mapping[str, Any]) -> nn.Module:
    """Return transformers' T5 of this configuration, in evaluation mode, without storage for its weights.

    Raise UserError if there is none.
    """
    from transformers import T5Config, T5ForConditionalGeneration  # 3 s, which only runs on text have to wait

    try:
        config = T5Config(**{key: settings[key] for key in GEOMETRY if key in settings}, attn_implementation="eager")
        with torch.device("meta"):
            module, token = T5ForConditionalGeneration(config).eval(), torch.zeros(1, 1, dtype=torch.int64)
            module(input_ids=token, decoder_input_ids=token)  # which computes shapes, and nothing else
    except Exception as error:  # of strange sizes and names, each in its own way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{files.config} describes no T5 that can be built ({reason}); get it again") from error
    if not settings["tie_word_embeddings"]:
        module.lm_head.weight = nn.Parameter(torch.empty_like(module.lm_head.weight))
    module.config.tie_word_embeddings = settings["tie_word_embeddings"]
    module.config.scale_decoder_outputs = settings["scale_decoder_outputs"]
    return module


def bare_names(name: object, weights: StateDict, tied: Collection[str] = ()) -> StateDict:
    """Return weights under transformers' names without a prefix, the embedding once, and without what no T5 reads.

    name: of the weights, for messages.
    tied: further names of the embedding.

    Raise UserError if they hold another matrix under one of those names.
    """
    plain = without_prefix(without_wrappers(weights), PREFIX)
    aliases = [key for key in (*ALIASES, *tied) if key in plain]
    names = {key: key for key in plain if key not in (*aliases, *UNUSED)}
    if aliases and EMBEDDING not in names:
        names = {EMBEDDING: aliases[0], **names}
    raise_any(
        f"{name}: {alias} is another matrix than {EMBEDDING}, and in this model the two are one; give a model without embeddings "
        "of its own for a part"
        for alias in aliases
        if names[EMBEDDING] != alias and not torch.equal(plain[alias], plain[names[EMBEDDING]])
    )
    return plain if len(names) == len(plain) and not aliases else renamed(plain, names)


def linear_names(module: nn.Module, weights: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the weights W of layers y = W x; an output layer that is the embedding is none."""
    names = (f"{path}.weight" for path, layer in module.named_modules() if isinstance(layer, nn.Linear))
    return [name for name in names if name in weights]

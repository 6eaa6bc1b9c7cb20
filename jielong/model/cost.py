"""Numbers before training: parameters, FLOPs and cache sizes from a configuration. Pure arithmetic, no torch.

FLOPs count a multiply-add as two. The backward pass costs twice the forward (arXiv:2001.08361, section 2.1). Of a sparse
layer the active experts count, not all of them. Attention counts the keys that a query sees on average: half a row, or less
where a window or a group is shorter; that packed documents end earlier is left out, so that the figure is an upper bound.

The letters are those of `transformer.py`: C hidden_size, H query heads, G key-value heads, D size of a head, V vocabulary,
E experts, K experts a token, I width of an expert.
"""

from __future__ import annotations

from jielong.model.config import Config


def embedding_parameters(config: Config) -> int:
    """Weights of the embedding and, when it is not tied, of the output layer."""
    return config.vocabulary * config.hidden_size * (1 if config.tie_word_embeddings else 2)


def attention_parameters(config: Config) -> int:
    """Weights of one layer's attention, its biases, head norms and talking heads included, the layer's norms not."""
    width, size = config.hidden_size, config.size_of_head
    queries, keys = config.num_attention_heads * size, config.num_key_value_heads * size
    count = width * (queries + 2 * keys) + queries * width
    if config.attention_bias:
        count += queries + 2 * keys + (0 if config.attention_bias == "qkv" else width)
    if config.qk_norm:
        count += 2 * size
    if config.talking_heads:
        count += 2 * config.num_attention_heads**2
    return count


def feed_forward_parameters(config: Config, layer: int, active: bool = False) -> int:
    """Weights of one layer's feed-forward part: dense, or gate, experts and shared expert. active: only what a token uses."""
    width = config.hidden_size
    if not config.is_sparse(layer):
        return 3 * width * config.feed_forward_size
    assert config.num_experts is not None
    used = config.num_experts_per_tok if active else config.num_experts
    count = config.num_experts * width + used * 3 * width * config.expert_size
    if config.shared_expert_intermediate_size is not None:
        count += 3 * width * config.shared_expert_intermediate_size + width  # and its own gate
    return count


def position_parameters(config: Config) -> int:
    """Weights of CLEX's network (arXiv:2310.16450), one for the whole model: up (D/2, A) and down (A, D/2). Else none."""
    scaling = config.rope_scaling
    if scaling is None or scaling.rope_type != "clex":
        return 0
    half = config.size_of_head // 2
    return 2 * half * (scaling.hidden_multiple * half)


def parameters(config: Config) -> int:
    """All weights, counted once where they are shared."""
    return _count(config, active=False)


def active_parameters(config: Config) -> int:
    """The weights that one token goes through: all of a dense model, of a sparse one those of its own experts."""
    return _count(config, active=True)


def _count(config: Config, active: bool) -> int:
    layers = range(config.num_hidden_layers)
    blocks = sum(feed_forward_parameters(config, layer, active) for layer in layers)
    blocks += len(layers) * (attention_parameters(config) + 2 * config.hidden_size)
    return embedding_parameters(config) + blocks + config.hidden_size + position_parameters(config)


def product_parameters(config: Config) -> int:
    """The weights that one token is multiplied with: the output layer's are, the embedding is looked up."""
    inside = active_parameters(config) - embedding_parameters(config) - position_parameters(config)
    return inside + config.vocabulary * config.hidden_size


def mean_keys(config: Config, layer: int, sequence_length: int) -> float:
    """Keys that a query of a full causal row sees, on average over the row: T / 2, or w - w^2 / 2T with a window w."""
    reach = min(config.window(layer) or sequence_length, sequence_length)
    if config.shifted_attention is not None:  # groups, each a short row of its own
        return min(config.shifted_attention, sequence_length) / 2
    return reach - reach * reach / (2 * sequence_length)


def flops_per_token(config: Config, sequence_length: int) -> float:
    """Training FLOPs (forward and backward) a token, for full causal rows of `sequence_length` tokens.

    6 for every weight used in a matrix product, and attention's two products over the keys that are seen: 6 x 2 x H x D x
    keys a layer. Talking heads mix H scores of every key twice: 6 x 2 x H x H x keys.
    """
    wide = config.num_attention_heads * (
        config.size_of_head + (config.num_attention_heads if config.talking_heads else 0)
    )
    keys = sum(mean_keys(config, layer, sequence_length) for layer in range(config.num_hidden_layers))
    return 6.0 * product_parameters(config) + 12.0 * wide * keys


def inference_flops_per_token(config: Config, context: int) -> float:
    """FLOPs of one new token after `context` cached ones: 2 a weight, and attention over what its window reaches."""
    wide = config.num_attention_heads * (
        config.size_of_head + (config.num_attention_heads if config.talking_heads else 0)
    )
    keys = sum(min(config.window(layer) or context, context) for layer in range(config.num_hidden_layers))
    return 2.0 * product_parameters(config) + 4.0 * wide * keys


def kv_cache_bytes(config: Config, item_bytes: int = 4) -> int:
    """Bytes that a key-value cache takes for one token: 2 x layers x G x D numbers."""
    return 2 * config.num_hidden_layers * config.num_key_value_heads * config.size_of_head * item_bytes


def el_cache_bytes(config: Config, item_bytes: int = 4) -> int:
    """Bytes that an EL-attention cache (arXiv:2105.04779) takes for one token: a hidden state a layer, layers x C numbers.

    Less than keys and values take where C < 2 x G x D: half of it with as many key-value heads as query heads (and H x D = C),
    the same with half of them, more with fewer.
    """
    return config.num_hidden_layers * config.hidden_size * item_bytes

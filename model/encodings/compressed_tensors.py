"""What do compressed-tensors' settings say? Groups of modules, each with a scheme.

By https://github.com/vllm-project/compressed-tensors, `quantization/quant_config` and `quant_args`.
"""

from model.encodings.encodings import Encodings, Rule
from model.encodings.patterns import targets
from model.encodings.refusals import refused
from model.encodings.schemes import CHANNEL, TENSOR, EightBits, Grain, Packed, Scheme
from model.json_fields import Fields

_PLAIN = ("float-quantized", "int-quantized", "naive-quantized")
_PACKED = "pack-quantized"
_KNOWN = (*_PLAIN, _PACKED)


def read_compressed_tensors(fields: Fields) -> Encodings:
    """Read `quantization_config`; raises CheckpointError for what is not served."""
    _refuse_more(fields)
    groups = fields.inside("config_groups")
    rules: list[Rule] = []
    activations = False
    for name in groups.names():
        if not isinstance(groups.raw(name), dict):
            raise refused(
                groups, name, "expected an object; schemes by their names are not supported"
            )
        group = groups.inside(name)
        activations = activations or "input_activations" in group or "output_activations" in group
        if "weights" in group:
            form = group if "format" in group else fields
            rules.append(Rule(_scheme(group.inside("weights"), form), targets(group, "targets")))
    unheeded = ("activations",) if activations else ()
    if "kv_cache_scheme" in fields:
        unheeded += ("KV caches",)
    # Patterns of whole names go before those of classes, as there.
    rules.sort(key=lambda rule: any(pattern.startswith("(?!") for pattern in rule.patterns))
    return Encodings("compressed-tensors", tuple(rules), targets(fields, "ignore"), unheeded)


def _refuse_more(fields: Fields) -> None:
    """Raise CheckpointError for what goes beyond weights in few bits."""
    if "sparsity_config" in fields:
        sparsity = fields.inside("sparsity_config")
        if (form := sparsity.text("format", "dense")) != "dense":
            raise refused(sparsity, "format", f"sparse weights ({form!r}) are not supported")
    if "transform_config" in fields:
        transforms = fields.inside("transform_config")
        if transforms.raw("config_groups"):
            raise refused(
                transforms, "config_groups", "transforms of activations are not supported"
            )


def _scheme(weights: Fields, form: Fields) -> Scheme:
    layout = form.text("format")
    if layout not in _KNOWN:
        raise refused(form, "format", f"{layout!r} is not supported ({', '.join(_KNOWN)} are)")
    bits, kind = weights.integer("num_bits", 8), weights.text("type", "int")
    grain = _grain(weights)
    zero_points = not weights.boolean("symmetric", True)
    if layout == _PACKED:
        if kind != "int" or bits not in (4, 8):
            raise refused(
                weights,
                "num_bits",
                f"{kind} of {bits} bits is not supported packed (int of 4 and 8 is)",
            )
        if zero_points and grain == TENSOR:
            raise refused(weights, "symmetric", "one zero point a tensor is not supported")
        return Packed(bits, grain, zero_points)
    if bits != 8 or kind not in ("int", "float"):
        raise refused(weights, "num_bits", f"{kind} of {bits} bits is not supported (8 bits are)")
    if kind == "float" and zero_points:
        raise refused(weights, "symmetric", "zero points of floats are not supported")
    return EightBits("fp8" if kind == "float" else "int8", grain, ("weight_scale",), zero_points)


def _grain(weights: Fields) -> Grain:
    size = weights.optional_integer("group_size", None)
    inferred = "tensor" if size is None else "channel" if size == -1 else "group"
    match weights.text("strategy", inferred):
        case "tensor":
            return TENSOR
        case "channel":
            return CHANNEL
        case "group" if size is not None and size > 0:
            return Grain(1, size)
        case "block":
            block = weights.integers("block_structure")
            if len(block) != 2 or min(block) < 1:
                raise weights.error("block_structure", f"expected two sizes, found {block}")
            return Grain(*block)
        case "group":
            raise weights.error("group_size", f"must be positive, not {size}")
        case other:
            raise refused(
                weights,
                "strategy",
                f"{other!r} is not supported (tensor, channel, group and block are)",
            )

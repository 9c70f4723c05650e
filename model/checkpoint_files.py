"""Which files of a checkpoint directory are read at all? Their names, in one place.

Whoever fetches a checkpoint fetches these, and nothing else. Knows nothing of what is in them.
"""

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
GPTQ_CONFIG = "quantize_config.json"
AWQ_CONFIG = "quant_config.json"
MODELOPT_CONFIG = "hf_quant_config.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
SPECIAL_TOKENS = "special_tokens_map.json"
CHAT_TEMPLATE = "chat_template.jinja"
CHAT_TEMPLATES = "additional_chat_templates/*.jinja"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
LENGTH_HEAD = "length_head"

SIZES = (CONFIG, GENERATION_CONFIG, GPTQ_CONFIG, AWQ_CONFIG, MODELOPT_CONFIG)
"""What says which model it is, how its weights are stored, and which tokens end its replies."""
TEXT = (TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, CHAT_TEMPLATE, CHAT_TEMPLATES)
"""What turns text and conversations into tokens."""

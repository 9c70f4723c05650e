"""How many tokens will a reply still have? Read from the model's own hidden states."""

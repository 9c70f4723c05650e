"""Ways for KV pages to cross from one worker's mesh to another's."""

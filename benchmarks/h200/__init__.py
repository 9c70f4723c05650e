"""What does one accelerator make of the engine's step? Measured part by part, with one command."""

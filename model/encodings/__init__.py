"""Weights that lie in a checkpoint's files in fewer bits than they are used in."""

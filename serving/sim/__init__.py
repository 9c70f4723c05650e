"""The served scheduler on a virtual clock: the same coordinator and batchers, priced steps."""

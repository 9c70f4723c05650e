"""Which deployment should it be? An integer program proposes, the simulator judges."""

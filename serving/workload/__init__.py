"""Which turns come, how long are they, and when? Sessions from traces, from files, or made up."""

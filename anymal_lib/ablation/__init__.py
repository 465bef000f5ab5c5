"""Figure 4 of the paper at the size of a profile: one factor at a time, over several seeds."""

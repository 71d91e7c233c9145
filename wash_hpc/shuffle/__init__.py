"""The method: what is shuffled at a step, and what that means for one member. No MPI, no I/O.

`probability` gives each layer its share, `draw` says which positions move and how, `plan` says what one member sends
and receives, `ahead` makes plans in the background, `reference` does all of it slowly and obviously.
"""

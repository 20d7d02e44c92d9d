"""A small complete world: a bench for the algorithm, whose numbers never speak of people."""

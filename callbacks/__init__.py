"""Lightning callbacks that watch and steer a run from outside."""

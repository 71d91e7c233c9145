"""What a run leaves on disk: metrics (HDF5), summary, checkpoints, weights. No decision about when to write."""

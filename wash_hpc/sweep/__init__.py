"""Many runs out of one file: which they are, training them in turn here or as Slurm job arrays, and their report."""

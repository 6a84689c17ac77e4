"""What finished runs say, as one page that needs nothing else."""

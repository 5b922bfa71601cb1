"""Reports of all kinds as one page of HTML that needs nothing else."""

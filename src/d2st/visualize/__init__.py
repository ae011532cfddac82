"""Show where adapters look and which frames match, as numbers and as pictures."""

"""None of these: how sure an answer is, and when it is that a clip shows no class of the support set."""

"""Find the best recognizer of a folder of clips: hold clips out, compare what was tried, say what to expect."""

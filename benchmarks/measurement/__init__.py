"""Speed, measured side by side: every variant of a job in a process of its own, in turns, so that a machine's drift hits all alike."""

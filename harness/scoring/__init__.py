"""From verdicts to numbers."""

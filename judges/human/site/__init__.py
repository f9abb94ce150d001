"""The pages on which people judge (`harness annotate`)."""

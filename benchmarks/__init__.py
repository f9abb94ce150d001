"""What measures speed: ratios against peers and plain `generate`, in one run on one machine."""

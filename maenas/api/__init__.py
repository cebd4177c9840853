"""What `import maenas` offers of the search, the latencies and the reports; the command line calls the same."""

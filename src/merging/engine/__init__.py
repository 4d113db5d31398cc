"""What merging methods are built from: streamed task vectors, thresholds, packed masks, decompositions."""

"""Other programs that reconstruct the same ``Scan``, each in an interpreter of its own."""

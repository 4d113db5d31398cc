"""What a process needs: whole files, other processes, signals, memory."""

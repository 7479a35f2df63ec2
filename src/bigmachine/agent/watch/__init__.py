"""Looking at machines and their host: memory, the kernel's killings, who hangs, samples of stacks, notices."""

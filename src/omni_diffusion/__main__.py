"""`python -m omni_diffusion`: the same as the command `omni-diffusion`."""

from omni_diffusion.cli import main

main()
